//! The options of an `rbd` section, by glance_store's names.

use std::time::Duration;

use crate::{
    contract::{Asker, Need},
    kit::options::{Options, shown},
};

/// The option that names pools beside the store's own.
pub(super) const ALSO: &str = "imaged_also_pools";

/// The user for images, as Ceph's documentation calls it.
const USER: &str = "glance";
const POOL: &str = "rbd_store_pool";
const DATA_POOL: &str = "rbd_store_data_pool";

/// An rbd store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `rbd_store_pool`: the pool of the images.
    pub pool: String,
    /// `imaged_also_pools`: pools of the same cluster where images are read and deleted too, and never
    /// written.
    pub also_pools: Vec<String>,
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
    /// `rbd_store_features`: a sum of librbd's features for new images; as the cluster says if unset.
    pub features: Option<u64>,
    /// `imaged_flatten`: copies inside the cluster are made independent of their source afterwards.
    /// On unless switched off.
    pub flatten: bool,
    /// `imaged_flatten_objects`: so many objects at a time.
    pub flatten_objects: u32,
    /// `imaged_recover_after_s`: how long the daemon of an unfinished upload has to be gone until this one clears
    /// it away; never if `None`.
    pub recover_after: Option<Duration>,
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

/// How long an unfinished upload waits for its daemon: a day, and at most a year.
const RECOVER_AFTER_S: u64 = 86_400;
const RECOVER_AFTER_MOST_S: u64 = 365 * 86_400;

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
        let timeout = timeout(options);
        let pool = options.text(POOL, "images");
        let data_pool = options.str(DATA_POOL).filter(|pool| !pool.is_empty());
        for (name, pool) in [(POOL, Some(&pool)), (DATA_POOL, data_pool.as_ref())] {
            if let Some(pool) = pool.filter(|pool| pool.contains(['/', '@', '\0'])) {
                let what = "names a pool; namespaces inside pools are not supported";
                options.fail(name, format!("{what}: value={}", shown(pool)));
            }
        }
        let also_pools = also_pools(options, &pool);
        Some(Self {
            pool,
            also_pools,
            user: options.text("rbd_store_user", "admin"),
            conf: options.text("rbd_store_ceph_conf", ""),
            order,
            timeout,
            thin: options.bool("rbd_thin_provisioning").unwrap_or(true),
            data_pool,
            features: features(options),
            flatten: options.bool("imaged_flatten").unwrap_or(true),
            flatten_objects: options
                .int("imaged_flatten_objects", 1..=100)
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(4),
            recover_after: recover_after(options),
        })
    }
}

impl Config {
    /// The caps that the user needs, as `ceph auth caps` takes them; `more` is for other pools.
    pub(super) fn caps(&self, more: &str) -> String {
        let Self { pool, data_pool, also_pools, .. } = self;
        let others = data_pool.iter().chain(also_pools);
        let others: String = others.map(|pool| format!(", profile rbd pool={pool}")).collect();
        format!("mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd pool={pool}{others}{more}'")
    }

    /// The command that gives those caps. The cluster's administrator has all, which that command would
    /// take away: instead of him a user for images is made.
    pub(super) fn grant(&self, more: &str) -> String {
        match self.user.as_str() {
            "admin" => format!("ceph auth get-or-create client.{USER} {}", self.caps(more)),
            user => format!("ceph auth caps client.{user} {}", self.caps(more)),
        }
    }

    /// The pools that the user has to write to: the store's, and those of `volumes`, each once.
    pub(super) fn written<'a>(&'a self, volumes: &'a [String]) -> Vec<&'a str> {
        let mut all = vec![self.pool.as_str()];
        for pool in self.data_pool.iter().chain(&self.also_pools).chain(volumes) {
            if !all.contains(&pool.as_str()) {
                all.push(pool);
            }
        }
        all
    }

    /// What images of volumes need, to be clones: first the caps of the store's user.
    pub(crate) fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        let Self { pool, user, .. } = self;
        let beside: Vec<_> = self.written(asker.pools).split_off(self.written(&[]).len());
        let more: String = beside.iter().map(|pool| format!(", profile rbd pool={pool}")).collect();
        let how = match user.as_str() {
            "admin" => format!(
                "client.admin may do that, and everything else: a user of its own is made so, and named by \
                 rbd_store_user = {USER}"
            ),
            user => format!(
                "This replaces all caps that it has: see `ceph auth get client.{user}` first"
            ),
        };
        let own = Need::not_checked(
            format!(
                "Ceph: client.{user} writes to the pools of the store and of the volumes, where a snapshot \
                 fixes what a volume holds until it is cloned. {how}"
            ),
            [self.grant(&more)],
            "the cluster was not asked",
        );
        let volumes = asker.pools.iter().map(|pool| format!("profile rbd pool={pool}"));
        let mgr = volumes.collect::<Vec<_>>().join(", ");
        let mut osd = mgr.clone();
        if !asker.pools.contains(pool) {
            // To copy into images that stay clones takes writing; to clone them again it does not.
            let profile = if self.flatten { "profile rbd-read-only" } else { "profile rbd" };
            osd = format!("{osd}, {profile} pool={pool}");
        }
        let flattens = if self.flatten {
            "volumes of images are clones of them, so it reads the images' pool"
        } else {
            "images stay clones (imaged_flatten = false), and before a volume is deleted they are flattened, \
             so it writes to the images' pool"
        };
        let cinders = Need::not_checked(
            format!(
                "Ceph: the user of Cinder's backend, `rbd_user` in cinder.conf, here client.cinder: {flattens}"
            ),
            [format!("ceph auth caps client.cinder mon 'profile rbd' mgr '{mgr}' osd '{osd}'")],
            "it is another user than the daemon's",
        );
        let driver = Need::not_checked(
            "cinder.conf: in the section of each backend whose volumes are in those pools",
            [
                "volume_driver = imaged.cinder.RBDDriver".to_owned(),
                "enable_clone_optimization = true".to_owned(),
                format!("imaged_socket = {}", asker.socket.display()),
                format!("imaged_store = {}", asker.store),
            ],
            "cinder.conf is not read",
        );
        vec![own, cinders, driver]
    }
}

/// `imaged_recover_after_s`: 0 is never.
fn recover_after(options: &mut Options) -> Option<Duration> {
    let seconds = options.int("imaged_recover_after_s", 0..=RECOVER_AFTER_MOST_S);
    Some(Duration::from_secs(seconds.unwrap_or(RECOVER_AFTER_S))).filter(|time| !time.is_zero())
}

/// `rados_connect_timeout`: 0 is for ever, and what is below leaves it to ceph.conf.
fn timeout(options: &mut Options) -> Timeout {
    const NAME: &str = "rados_connect_timeout";
    match options.signed(NAME) {
        Some(0) => Timeout::None,
        Some(1..) => options.seconds(NAME, 1).map_or(Timeout::Default(PATIENCE), Timeout::Fixed),
        Some(_) | None => Timeout::Default(PATIENCE),
    }
}

/// The pools that are only read and deleted in, between commas or on lines of their own.
fn also_pools(options: &mut Options, own: &str) -> Vec<String> {
    let entries = options.multi(ALSO);
    let mut found = Vec::<String>::new();
    for entry in entries.iter().flat_map(|entry| entry.split(',')).map(str::trim) {
        if entry.is_empty() {
        } else if entry.contains(['/', '@', '\0']) {
            let what = "names pools, and nothing inside them";
            options.fail(ALSO, format!("{what}: value={}", shown(entry)));
        } else if entry == own {
            options.note(ALSO, format!("the store's own pool need not be named: {entry}"));
        } else if !found.iter().any(|named| named == entry) {
            // Named twice says nothing else than named once.
            found.push(entry.to_owned());
        }
    }
    found
}

/// Features by librbd's names, as `rbd create --image-feature` takes them, and what each needs.
const FEATURES: [(&str, u64, u64); 7] = [
    ("layering", 1, 0),
    ("striping", 2, 0),
    ("exclusive-lock", 4, 0),
    ("object-map", 8, 4),
    ("fast-diff", 16, 8),
    ("deep-flatten", 32, 0),
    ("journaling", 64, 4),
];

/// `rbd_store_features`: a number, or names between commas.
fn features(options: &mut Options) -> Option<u64> {
    const NAME: &str = "rbd_store_features";
    let text = options.str(NAME).filter(|text| !text.trim().is_empty())?;
    let (mut sum, mut wrong) = (0, Vec::new());
    for part in text.split(',').map(str::trim) {
        let named = FEATURES.iter().find(|(name, ..)| *name == part).map(|(_, bit, _)| *bit);
        match named.or_else(|| part.parse().ok().filter(|bits| *bits < 128)) {
            Some(bits) => sum |= bits,
            None => wrong.push(part),
        }
    }
    let lacking = |needed: u64| FEATURES.iter().find(|(_, bit, _)| *bit == needed);
    if let Some(part) = wrong.first() {
        let names: Vec<_> = FEATURES.iter().map(|(name, ..)| *name).collect();
        let what =
            format!("features are a number or some of {}: value={}", names.join(", "), shown(part));
        options.fail(NAME, what);
        return None;
    }
    if sum & 1 == 0 {
        options.fail(NAME, "must have layering, or Nova and Cinder cannot clone the images");
        return None;
    }
    for (name, bit, needed) in FEATURES {
        if sum & bit != 0
            && sum & needed != needed
            && let Some((other, ..)) = lacking(needed)
        {
            options.fail(NAME, format!("{name} needs {other}: add it"));
            return None;
        }
    }
    Some(sum)
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
        assert_eq!(config.recover_after, Some(Duration::from_hours(24)));
        assert_eq!(read(&[("imaged_recover_after_s", "0")]).0.recover_after, None);
    }

    #[test]
    fn every_option_is_read() {
        let (config, notes) = read(&[
            ("rbd_store_pool", "vms"),
            ("imaged_also_pools", "images, old images,,vms,images"),
            ("rbd_store_user", "glance"),
            ("rbd_store_ceph_conf", "/etc/ceph/other.conf"),
            ("rbd_store_chunk_size", "6"),
            ("rados_connect_timeout", "3"),
            ("rbd_thin_provisioning", "false"),
            ("rbd_store_data_pool", "ec"),
            ("rbd_store_features", "layering, exclusive-lock,object-map"),
            ("imaged_flatten", "no"),
            ("imaged_flatten_objects", "2"),
            ("imaged_recover_after_s", "60"),
        ]);
        assert_eq!(
            config,
            Config {
                pool: "vms".into(),
                also_pools: vec!["images".into(), "old images".into()],
                user: "glance".into(),
                conf: "/etc/ceph/other.conf".into(),
                order: 22,
                timeout: Timeout::Fixed(Duration::from_secs(3)),
                thin: false,
                data_pool: Some("ec".into()),
                features: Some(13),
                flatten: false,
                flatten_objects: 2,
                recover_after: Some(Duration::from_secs(60)),
            }
        );
        assert_eq!(notes, 2, "6 MiB cannot be, and the own pool is known");
        assert_eq!(read(&[("rados_connect_timeout", "0")]).0.timeout, Timeout::None);
    }

    #[test]
    fn features_that_cannot_be_are_refused_and_why() {
        let read_features = |value: &str| {
            let mut options = Options::of("fast", &[("rbd_store_features", value)]);
            let config = Config::read(&mut options);
            let problems = options.finish().problems;
            (config.unwrap().features, problems.first().map(ToString::to_string))
        };
        assert_eq!(read_features("61"), (Some(61), None));
        assert_eq!(read_features(""), (None, None));
        for (value, why) in [
            ("exclusive-lock", "must have layering"),
            ("layering, object-map", "object-map needs exclusive-lock"),
            ("layering, lasers", "value=`lasers`"),
            ("9999", "value=`9999`"),
        ] {
            let (features, problem) = read_features(value);
            assert!(problem.unwrap().contains(why), "{value}");
            assert_eq!(features, None);
        }
    }

    #[test]
    fn a_time_that_no_clock_tells_is_refused() {
        for value in ["86401", "9223372036854775807", "18446744073709551615"] {
            let mut options = Options::of("fast", &[("rados_connect_timeout", value)]);
            Config::read(&mut options);
            let problems = options.finish().problems;
            assert_eq!(problems.len(), 1, "{value}: {problems:?}");
            assert!(problems[0].to_string().contains("rados_connect_timeout: must be"), "{value}");
        }
        assert_eq!(
            read(&[("rados_connect_timeout", "-9223372036854775808")]).0.timeout,
            Timeout::Default(PATIENCE)
        );
    }

    #[test]
    fn what_is_no_pool_is_refused() {
        for value in ["images/namespace", "old, images@snap"] {
            let mut options = Options::of("fast", &[(ALSO, value)]);
            Config::read(&mut options);
            let problems = options.finish().problems;
            assert!(problems[0].to_string().contains("names pools"), "{value}: {problems:?}");
        }
    }

    #[test]
    fn a_namespace_is_refused_as_one() {
        for (name, value) in
            [("rbd_store_pool", "images/namespace"), ("rbd_store_data_pool", "data/namespace")]
        {
            let mut options = Options::of("fast", &[(name, value)]);
            Config::read(&mut options);
            let problem = options.finish().problems[0].to_string();
            assert!(problem.contains(name) && problem.contains("namespaces"), "{problem}");
        }
    }

    #[test]
    fn an_object_that_cannot_be_is_refused() {
        let mut options = Options::of("fast", &[("rbd_store_chunk_size", "64")]);
        Config::read(&mut options);
        assert!(options.finish().problems[0].to_string().contains("from 1 to 32"));
    }
}
