//! The options of a `cinder` section, by glance_store's names.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    contract::{Asker, Need},
    kit::{
        http::Url,
        keystone::{Domain, Login, Name, Scope, Wanted, Who},
        options::{Options, shown},
    },
};

/// Where the system's own iSCSI initiator has its name.
const SYSTEM_INITIATOR: &str = "/etc/iscsi/initiatorname.iscsi";

/// A cinder store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who logs in.
    pub login: Box<Login>,
    /// Which endpoint of the catalog is used.
    pub wanted: Box<Wanted>,
    /// `cinder_endpoint_template`: where Cinder is, whatever the catalog says.
    pub template: Option<String>,
    /// `cinder_volume_type`: the type of new volumes; Cinder's default type if unset.
    pub volume_type: Option<String>,
    /// `cinder_state_transition_timeout`: how long a volume may take from one status to the next.
    pub transition: Duration,
    /// `cinder_do_extend_attached`: whether volumes grow while they are attached; if unset, those in Ceph do.
    pub extends_attached: Option<bool>,
    /// `cinder_attachment_retry_attempts`: tries to attach a volume that is reserved.
    pub attach_tries: u32,
    /// `cinder_http_retries`: how often a request is sent again.
    pub retries: usize,
    /// `cinder_ca_certificates_file`: who is trusted beside the system's authorities.
    pub ca: Option<PathBuf>,
    /// `cinder_api_insecure`: certificates are not verified.
    pub insecure: bool,
    /// `imaged_cinder_timeout_s`: for a connection, the next byte of an answer, and a device.
    pub timeout: Duration,
    /// How volumes are reached from here.
    pub reach: Reach,
}

/// How volumes are reached from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// `imaged_cinder_host`: what Cinder knows this machine as.
    pub host: String,
    /// `imaged_cinder_initiator`: the name by which iSCSI targets know it.
    pub initiator: Option<String>,
    /// `cinder_use_multipath`: several ways to a device are used at a time.
    pub multipath: bool,
    /// `cinder_enforce_multipath`: and a single one is not enough.
    pub enforce_multipath: bool,
    /// `cinder_mount_point_base`: where glance_store mounts exports.
    pub mount_base: PathBuf,
    /// `imaged_cinder_mounts`: where exports are mounted.
    pub mounts: BTreeMap<String, PathBuf>,
    /// `imaged_cinder_ceph_conf`: ceph.conf for volumes in Ceph; empty for `/etc/ceph/<cluster>.conf`.
    pub ceph_conf: String,
    /// `imaged_cinder_ceph_user`: the cephx user for them; the one that Cinder names if unset.
    pub ceph_user: Option<String>,
    /// `imaged_cinder_connector`: the program that reaches all other volumes, and its arguments.
    pub connector: Option<Vec<String>>,
}

impl Reach {
    /// The name by which iSCSI targets know this machine: as it is told, as the system's own initiator has it, or
    /// one made of the host's name.
    #[must_use]
    pub fn initiator(&self) -> String {
        let own = || {
            let text = std::fs::read_to_string(SYSTEM_INITIATOR).ok()?;
            let line = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="));
            line.map(str::to_owned).filter(|name| !name.is_empty())
        };
        let made = || {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            format!(
                "iqn.2026-01.localhost:imaged-{}",
                self.host.chars().map(plain).collect::<String>()
            )
        };
        self.initiator.clone().or_else(own).unwrap_or_else(made)
    }
}

impl Config {
    /// Reads a `cinder` section; `None` if it cannot be used. No server is asked.
    pub fn read(options: &mut Options) -> Option<Self> {
        options.no_longer_matters("rootwrap_config", "nothing is run as another user");
        let login = login(options);
        let template = template(options);
        let wanted = wanted(options);
        let retries = options.int("cinder_http_retries", 0..=100).unwrap_or(3);
        let tries = options.int("cinder_attachment_retry_attempts", 1..=100).unwrap_or(5);
        let reach = reach(options);
        let config = Self {
            wanted: Box::new(wanted?),
            volume_type: options.str("cinder_volume_type"),
            transition: options
                .seconds("cinder_state_transition_timeout", 1)
                .unwrap_or(Duration::from_mins(5)),
            extends_attached: options.bool("cinder_do_extend_attached"),
            attach_tries: u32::try_from(tries).unwrap_or(5),
            retries: usize::try_from(retries).unwrap_or(3),
            ca: options.path("cinder_ca_certificates_file"),
            insecure: options.bool("cinder_api_insecure").unwrap_or(false),
            timeout: options
                .seconds("imaged_cinder_timeout_s", 1)
                .unwrap_or(Duration::from_secs(60)),
            login: Box::new(login?),
            template: template?,
            reach: reach?,
        };
        Some(config)
    }
}

impl Config {
    /// What images of volumes need, to be clones inside Cinder: first what can be looked at, the login with its
    /// project, the volumes' type, and the quota.
    pub(crate) fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        const UNASKED: &str = "Cinder was not asked";
        let (user, project) = self.names();
        let login = Need::not_checked(
            format!(
                "Keystone: {user} has a role in {project}, where the volumes of images are. It clones volumes \
                 of that project, and as an administrator those of all"
            ),
            [format!("openstack role add --user {user} --project {project} member")],
            UNASKED,
        );
        let (volume_type, how) = match &self.volume_type {
            Some(named) => (
                format!(
                    "Cinder: the volume type {named} (cinder_volume_type), for images that are streamed; a \
                     clone has the type of its volume"
                ),
                Some(format!("openstack volume type create {named}")),
            ),
            None => (
                "Cinder: a default volume type, for images that are streamed (cinder_volume_type is not \
                 set); a clone has the type of its volume"
                    .to_owned(),
                None,
            ),
        };
        let quota = Need::not_checked(
            format!(
                "Cinder: a quota of {project} for a volume and its GiB for each image, and for one that is \
                 being made"
            ),
            [format!("openstack quota set --volumes VOLUMES --gigabytes GIB {project}")],
            UNASKED,
        );
        let cinder = Need::not_checked(
            format!(
                "cinder.conf: Cinder clones the volume itself, into the store's project as its internal tenant, \
                 and tells Glance. A volume type with image_service:store_id is streamed: Glance refuses how \
                 Cinder tells it. The ids are those of {project} and {user}"
            ),
            [
                "[DEFAULT]".to_owned(),
                "cinder_internal_tenant_project_id = PROJECT_ID".to_owned(),
                "cinder_internal_tenant_user_id = USER_ID".to_owned(),
                "# in the section of each backend".to_owned(),
                "image_upload_use_cinder_backend = true".to_owned(),
                "image_upload_use_internal_tenant = true".to_owned(),
                "# with volume_driver = imaged.cinder.RBDDriver, for what is streamed".to_owned(),
                format!("imaged_socket = {}", asker.socket.display()),
                format!("imaged_store = {}", asker.store),
            ],
            "cinder.conf is not read",
        );
        vec![login, Need::not_checked(volume_type, how, UNASKED), quota, cinder]
    }

    /// Who logs in, and in which project, as the `openstack` command takes them.
    fn names(&self) -> (String, String) {
        let name = |name: &Name| match name {
            Name::Id(text) | Name::In(_, text) => text.clone(),
        };
        match &self.login.who {
            Who::Password { user, scope: Scope::Project(project), .. } => {
                (name(user), name(project))
            }
            Who::Password { user, scope: Scope::Trust(_), .. } => {
                (name(user), "PROJECT".to_owned())
            }
            // The credential has its user and its project in it.
            Who::ApplicationCredential { .. } | Who::Bearer(_) | Who::V1 { .. } => {
                ("USER".to_owned(), "PROJECT".to_owned())
            }
        }
    }
}

/// An address of a server, without a login in it.
fn address(options: &mut Options, name: &str, text: &str) -> Option<Url> {
    let url = text.parse::<Url>().ok();
    let plain = |url: &Url| {
        let named = url.username().is_empty() && url.password().is_none();
        named && matches!(url.scheme(), "http" | "https") && url.has_host()
    };
    let url = url.filter(plain);
    if url.is_none() {
        options.fail(name, "must be a URL without a login in it, such as https://host:5000/v3");
    }
    url
}

fn login(options: &mut Options) -> Option<Login> {
    const ADDRESS: &str = "cinder_store_auth_address";
    let text = options.str(ADDRESS);
    let user = options.str("cinder_store_user_name");
    let password = options.secret("cinder_store_password");
    let project = options.str("cinder_store_project_name");
    let user_domain = options.text("cinder_store_user_domain_name", "Default");
    let project_domain = options.text("cinder_store_project_domain_name", "Default");
    let id = options.str("cinder_store_application_credential_id");
    let secret = options.secret("cinder_store_application_credential_secret");
    let Some(text) = text else {
        options.fail(
            ADDRESS,
            "is needed, with cinder_store_user_name, cinder_store_password and \
             cinder_store_project_name, or with an application credential: the volumes are of that \
             project. Callers' own tokens are not used: they expire, and their volumes would be out of \
             reach for other readers and for what clears up after a failure",
        );
        return None;
    };
    let url = address(options, ADDRESS, &text);
    let who = if id.is_some() || secret.is_some() {
        let lacks = [
            ("cinder_store_application_credential_id", id.is_none()),
            ("cinder_store_application_credential_secret", secret.is_none()),
        ];
        match (id, secret) {
            (Some(id), Some(secret)) => Some(Who::ApplicationCredential { id, secret }),
            _ => needs(options, lacks),
        }
    } else {
        let lacks = [
            ("cinder_store_user_name", user.is_none()),
            ("cinder_store_password", password.is_none()),
            ("cinder_store_project_name", project.is_none()),
        ];
        match (user, password, project) {
            (Some(user), Some(password), Some(project)) => Some(Who::Password {
                user: Name::In(Domain::Name(user_domain), user),
                password,
                scope: Scope::Project(Name::In(Domain::Name(project_domain), project)),
            }),
            _ => needs(options, lacks),
        }
    };
    Some(Login { url: url?, who: who? })
}

/// Says of each option that is lacking that it is needed.
fn needs<T, const N: usize>(options: &mut Options, lacking: [(&str, bool); N]) -> Option<T> {
    for (name, lacks) in lacking {
        if lacks {
            options.fail(name, "is needed beside cinder_store_auth_address");
        }
    }
    None
}

/// What is looked for in the catalog: `<type>:<name>:<interface>`, of which the name does not matter.
fn wanted(options: &mut Options) -> Option<Wanted> {
    const INFO: &str = "cinder_catalog_info";
    let info = options.text(INFO, "volumev3::publicURL");
    let parts: Vec<_> = info.split(':').collect();
    let (service, interface) = match parts.as_slice() {
        [service, _name, interface] if !service.is_empty() => (*service, *interface),
        _ => {
            let what = "must be TYPE:NAME:INTERFACE, such as volumev3::publicURL";
            options.fail(INFO, format!("{what}: value={}", shown(&info)));
            return None;
        }
    };
    let interface = match interface {
        "public" | "publicURL" => "public",
        "internal" | "internalURL" => "internal",
        "admin" | "adminURL" => "admin",
        other => {
            let what = "the interface is publicURL, internalURL or adminURL";
            options.fail(INFO, format!("{what}: value={}", shown(other)));
            return None;
        }
    };
    let old = options.str("os_region_name");
    let region = options.str("cinder_os_region_name").or(old);
    let (service, interface) = (service.to_owned(), interface.to_owned());
    Some(Wanted { service, region, interface, instead: None })
}

/// `None` within `Some` if there is none.
fn template(options: &mut Options) -> Option<Option<String>> {
    const TEMPLATE: &str = "cinder_endpoint_template";
    let Some(template) = options.str(TEMPLATE) else { return Some(None) };
    let filled = fill(&template, "project");
    if filled.contains("%(") {
        let what = "knows %(project_id)s alone";
        options.fail(TEMPLATE, format!("{what}: value={}", shown(&template)));
        return None;
    }
    address(options, TEMPLATE, &filled)?;
    Some(Some(template))
}

/// A template with the project's id in its place.
pub(super) fn fill(template: &str, project: &str) -> String {
    let names = ["%(project_id)s", "%(tenant)s", "%(tenant_id)s"];
    names.iter().fold(template.to_owned(), |text, name| text.replace(name, project))
}

fn reach(options: &mut Options) -> Option<Reach> {
    const MOUNTS: &str = "imaged_cinder_mounts";
    const INITIATOR: &str = "imaged_cinder_initiator";
    let mut mounts = BTreeMap::new();
    for pair in options.list(MOUNTS) {
        // An export may have `=` in it, a mount point seldom has.
        match pair.rsplit_once('=') {
            Some((export, path)) if !export.is_empty() && path.starts_with('/') => {
                mounts.insert(export.trim().to_owned(), PathBuf::from(path.trim()));
            }
            _ => {
                let what = "a mount is EXPORT=DIRECTORY, such as nfs:/volumes=/mnt/volumes";
                options.fail(MOUNTS, format!("{what}: value={}", shown(&pair)));
                return None;
            }
        }
    }
    let initiator = options.str(INITIATOR);
    if let Some(name) = &initiator
        && !["iqn.", "eui.", "naa."].iter().any(|begins| name.starts_with(begins))
    {
        let what = "is a name of iSCSI, such as iqn.2026-01.com.example:glance1";
        options.fail(INITIATOR, format!("{what}: value={}", shown(name)));
        return None;
    }
    let connector = options.str("imaged_cinder_connector");
    let connector = connector.map(|line| line.split_whitespace().map(str::to_owned).collect());
    let base = options.path("cinder_mount_point_base");
    let enforce_multipath = options.bool("cinder_enforce_multipath").unwrap_or(false);
    Some(Reach {
        host: options.str("imaged_cinder_host").unwrap_or_else(hostname),
        initiator,
        multipath: options.bool("cinder_use_multipath").unwrap_or(false) || enforce_multipath,
        enforce_multipath,
        mount_base: base.unwrap_or_else(|| "/var/lib/glance/mnt".into()),
        mounts,
        ceph_conf: options.text("imaged_cinder_ceph_conf", ""),
        ceph_user: options.str("imaged_cinder_ceph_user"),
        connector: connector.filter(|words: &Vec<String>| !words.is_empty()),
    })
}

fn hostname() -> String {
    // Not from /proc/sys, which a service may not see.
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    if name.is_empty() { "imaged".to_owned() } else { name.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<Config>, Vec<String>, usize) {
        let mut options = Options::of("volumes", pairs);
        let config = Config::read(&mut options);
        let found = options.finish();
        let problems = found.problems.iter().map(ToString::to_string).collect();
        (config, problems, found.notes.len())
    }

    const OWN: [(&str, &str); 4] = [
        ("cinder_store_auth_address", "http://127.0.0.1:5000/v3"),
        ("cinder_store_user_name", "glance"),
        ("cinder_store_password", "s3cret"),
        ("cinder_store_project_name", "service"),
    ];

    #[test]
    fn a_section_with_a_login_has_glance_stores_defaults() {
        let (config, problems, notes) = read(&OWN);
        assert_eq!((problems, notes), (Vec::<String>::new(), 0));
        let config = config.unwrap();
        assert_eq!(config.wanted.service, "volumev3");
        assert_eq!(config.wanted.interface, "public");
        assert_eq!(config.transition, Duration::from_secs(300));
        assert_eq!((config.attach_tries, config.retries), (5, 3));
        assert!(config.extends_attached.is_none() && !config.reach.host.is_empty());
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn every_option_is_read() {
        let more = [
            ("cinder_catalog_info", "block-storage:cinder:internalURL"),
            ("cinder_endpoint_template", "http://cinder:8776/v3/%(project_id)s"),
            ("cinder_os_region_name", "RegionTwo"),
            ("cinder_ca_certificates_file", "/etc/ca.pem"),
            ("cinder_http_retries", "7"),
            ("cinder_state_transition_timeout", "60"),
            ("cinder_api_insecure", "true"),
            ("cinder_store_user_domain_name", "users"),
            ("cinder_store_project_domain_name", "projects"),
            ("rootwrap_config", "/etc/glance/rootwrap.conf"),
            ("cinder_volume_type", "images"),
            ("cinder_enforce_multipath", "true"),
            ("cinder_mount_point_base", "/mnt"),
            ("cinder_do_extend_attached", "true"),
            ("cinder_attachment_retry_attempts", "2"),
            ("imaged_cinder_timeout_s", "9"),
            ("imaged_cinder_host", "glance1"),
            ("imaged_cinder_initiator", "iqn.2026-01.com.example:glance1"),
            ("imaged_cinder_mounts", "nfs:/a=/mnt/a, nfs:/b=c=/mnt/b"),
            ("imaged_cinder_ceph_conf", "/etc/ceph/volumes.conf"),
            ("imaged_cinder_ceph_user", "glance"),
            ("imaged_cinder_connector", "/usr/bin/imaged-connector --verbose"),
        ];
        let (config, problems, notes) = read(&[&OWN[..], &more[..]].concat());
        assert_eq!((problems, notes), (Vec::<String>::new(), 1));
        let config = config.unwrap();
        assert_eq!(config.wanted.region.as_deref(), Some("RegionTwo"));
        assert_eq!(fill(config.template.as_deref().unwrap(), "p"), "http://cinder:8776/v3/p");
        assert_eq!(config.reach.mounts["nfs:/b=c"], PathBuf::from("/mnt/b"));
        assert_eq!(config.reach.connector.unwrap().len(), 2);
        assert!(config.reach.multipath);
    }

    #[test]
    fn what_cannot_be_is_named_with_the_remedy() {
        let with = |pairs: &[(&str, &str)]| read(&[&OWN[..], pairs].concat()).1;
        for (pairs, says) in [
            (&[("cinder_catalog_info", "volumev3")][..], "TYPE:NAME:INTERFACE"),
            (&[("cinder_catalog_info", "volumev3::secretURL")], "internalURL"),
            (&[("cinder_endpoint_template", "http://c/%(user)s")], "%(project_id)s alone"),
            (&[("cinder_endpoint_template", "c:8776")], "must be a URL"),
            (&[("imaged_cinder_mounts", "nfs:/a")], "EXPORT=DIRECTORY"),
            (&[("imaged_cinder_initiator", "glance1")], "name of iSCSI"),
        ] {
            let problems = with(pairs);
            assert!(problems.iter().any(|problem| problem.contains(says)), "{problems:?}");
        }
        assert!(read(&[]).1[0].contains("cinder_store_auth_address"));
        // All that a login lacks is said at once.
        let lacks = |pairs: &[(&str, &str)], names: &[&str]| {
            let problems = read(pairs).1;
            assert_eq!(problems.len(), names.len(), "{problems:?}");
            for (problem, name) in problems.iter().zip(names) {
                assert!(problem.contains(&format!("{name}: is needed")), "{problems:?}");
            }
        };
        lacks(&OWN[..3], &["cinder_store_project_name"]);
        lacks(
            &OWN[..1],
            &["cinder_store_user_name", "cinder_store_password", "cinder_store_project_name"],
        );
        let (id, secret) = (
            "cinder_store_application_credential_id",
            "cinder_store_application_credential_secret",
        );
        lacks(&[OWN[0], (id, "id")], &[secret]);
        lacks(&[&OWN[..], &[(secret, "s3cret")]].concat(), &[id]);
        let credential = [
            OWN[0],
            ("cinder_store_application_credential_id", "id"),
            ("cinder_store_application_credential_secret", "s3cret"),
        ];
        let (config, problems, _) = read(&credential);
        assert_eq!(problems, Vec::<String>::new());
        assert!(matches!(config.unwrap().login.who, Who::ApplicationCredential { .. }));
    }
}
