//! The options of an `rbd` section, by glance_store's names.

use std::time::Duration;

use crate::options::Options;

/// An rbd store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `rbd_store_pool`: the pool of the images.
    pub pool: String,
    /// `rbd_store_user`: the cephx user, without `client.`.
    pub user: String,
    /// `rbd_store_ceph_conf`: the path of ceph.conf; empty lets librados look for it.
    pub conf: String,
    /// `rbd_store_chunk_size`, as the binary logarithm of an object's size in bytes.
    pub order: u8,
    /// `rados_connect_timeout`: how long the cluster may take for one answer.
    pub timeout: Timeout,
    /// `rbd_thin_provisioning`: blocks of zeros are not written. On unless switched off.
    pub thin: bool,
    /// `rbd_store_data_pool`: the pool of the images' data, which may be erasure-coded.
    pub data_pool: Option<String>,
}

/// How long the cluster may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// As ceph.conf says; where it sets no limit, so long.
    Default(Duration),
    /// So long, whatever ceph.conf says.
    Fixed(Duration),
    /// For ever.
    None,
}

/// Where ceph.conf sets no limit.
const PATIENCE: Duration = Duration::from_secs(15);

impl Config {
    /// Reads an `rbd` section. The cluster is not touched.
    pub fn read(options: &mut Options) -> Option<Self> {
        const CHUNK: &str = "rbd_store_chunk_size";
        let mib = options.int(CHUNK, 1..=32).unwrap_or(8);
        let order = u8::try_from(20 + mib.max(1).ilog2()).unwrap_or(23);
        if !mib.is_power_of_two() {
            let used = 1_u64 << mib.ilog2();
            options.note(CHUNK, format!("an object's size is a power of two: {used} is used"));
        }
        let timeout = match options.signed("rados_connect_timeout") {
            Some(0) => Timeout::None,
            Some(seconds) if seconds > 0 => {
                Timeout::Fixed(Duration::from_secs(seconds.unsigned_abs()))
            }
            Some(_) | None => Timeout::Default(PATIENCE),
        };
        Some(Self {
            pool: options.text("rbd_store_pool", "images"),
            user: options.text("rbd_store_user", "admin"),
            conf: options.text("rbd_store_ceph_conf", ""),
            order,
            timeout,
            thin: options.bool("rbd_thin_provisioning").unwrap_or(true),
            data_pool: options.str("rbd_store_data_pool").filter(|pool| !pool.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Config, usize) {
        let mut options = Options::of("fast", pairs);
        let config = Config::read(&mut options).unwrap();
        let found = options.finish();
        assert_eq!(found.problems.len(), 0, "{:?}", found.problems);
        (config, found.notes.len())
    }

    #[test]
    fn an_empty_section_has_glance_stores_names() {
        let (config, notes) = read(&[]);
        assert_eq!(
            (config.pool.as_str(), config.user.as_str(), config.order),
            ("images", "admin", 23)
        );
        assert_eq!((config.conf.as_str(), config.thin, notes), ("", true, 0));
        assert_eq!(config.timeout, Timeout::Default(PATIENCE));
    }

    #[test]
    fn every_option_is_read() {
        let (config, notes) = read(&[
            ("rbd_store_pool", "vms"),
            ("rbd_store_user", "glance"),
            ("rbd_store_ceph_conf", "/etc/ceph/other.conf"),
            ("rbd_store_chunk_size", "6"),
            ("rados_connect_timeout", "3"),
            ("rbd_thin_provisioning", "false"),
            ("rbd_store_data_pool", "ec"),
        ]);
        assert_eq!(
            config,
            Config {
                pool: "vms".into(),
                user: "glance".into(),
                conf: "/etc/ceph/other.conf".into(),
                order: 22,
                timeout: Timeout::Fixed(Duration::from_secs(3)),
                thin: false,
                data_pool: Some("ec".into()),
            }
        );
        assert_eq!(notes, 1, "6 MiB cannot be");
        assert_eq!(read(&[("rados_connect_timeout", "0")]).0.timeout, Timeout::None);
    }

    #[test]
    fn an_object_that_cannot_be_is_refused() {
        let mut options = Options::of("fast", &[("rbd_store_chunk_size", "64")]);
        Config::read(&mut options);
        assert!(options.finish().problems[0].to_string().contains("from 1 to 32"));
    }
}
