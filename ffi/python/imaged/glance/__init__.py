"""Glance's stores, served by the daemon.

With `imaged_socket` in a store's own section of glance-api.conf, or in `[backend_defaults]`, the
daemon moves that store's images. Ids, types, locations and the database stay as they are; without
the line everything is as before. `hook` says how it gets there, `store` what it does.
"""
