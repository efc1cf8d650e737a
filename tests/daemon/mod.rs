//! The daemon over its real socket.

mod also;
mod also_pools;
mod buckets;
mod ceph;
mod cinder;
mod cinder_hosts;
mod cinder_schedules;
mod conditions;
mod descriptors;
mod ends;
mod framing;
mod hangs;
mod keys;
mod kills;
mod limits;
mod protocol;
mod reloads;
mod roles;
mod rotation;
mod same_names;
mod several;
mod signals;
mod sources;
mod tenants;
mod volumes;
mod web;
