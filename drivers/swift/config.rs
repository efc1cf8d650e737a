//! The options of a `swift` section, by glance_store's names.

use std::{path::PathBuf, time::Duration};

use crate::kit::{
    http::Url,
    keystone::{Domain, Login, Name, Scope, Wanted, Who},
    options::{Options, Secret, shown},
};

/// What glance_store calls a MB: 1,024,000 bytes.
pub(super) const MB: u64 = 1000 * 1024;

/// The largest object that a Swift takes unless it is told otherwise, in bytes.
const LARGEST: u64 = 5 << 30;

/// Ten years, in seconds.
const YEARS: u64 = 10 * 365 * 24 * 3600;

/// Longer than a server takes that is started again.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A swift store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who logs in.
    pub logins: Logins,
    /// `swift_store_multi_tenant`: each image lies in the account of who uploads it, in a container of its
    /// own.
    pub multi_tenant: bool,
    /// Which endpoint of the catalog is used.
    pub wanted: Box<Wanted>,
    /// `swift_store_container`: the container's name, or what the names begin with.
    pub container: String,
    /// `swift_store_multiple_containers_seed`: so many digits of an image's id are in the name of its
    /// container; 0 for one container.
    pub seed: usize,
    /// `swift_store_create_container_on_put`.
    pub create_container: bool,
    /// `swift_store_large_object_size`: an image of this many bytes or more is stored in segments.
    pub large: u64,
    /// `swift_store_large_object_chunk_size`: bytes of a segment; if unset they grow with the image.
    pub segment: Option<u64>,
    /// `imaged_swift_segments_in_flight`: so many segments are sent at a time.
    pub in_flight: usize,
    /// `imaged_swift_large_object`: how segments become one image.
    pub large_object: LargeObject,
    /// `imaged_swift_delete_after_s`: Swift removes an image so long after it was stored.
    pub delete_after: Option<Duration>,
    /// `swift_store_admin_tenants`: who may write the containers of others.
    pub admin_tenants: Vec<String>,
    /// `swift_store_expire_soon_interval`: a token that expires within this time is renewed.
    pub expires_soon: Duration,
    /// `swift_store_cacert`: who is trusted beside the system's authorities.
    pub ca: Option<PathBuf>,
    /// `swift_store_auth_insecure`: certificates are not verified.
    pub insecure: bool,
    /// `imaged_swift_timeout_s`: for a connection, and for the next byte of a request or an answer.
    pub timeout: Duration,
    /// `imaged_swift_connections`: requests at a time.
    pub connections: usize,
}

/// Who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logins {
    /// Nobody but the callers of a multi-tenant store, whose tokens are of this Keystone.
    Callers(Url),
    /// The section's own user.
    Own(Box<User>),
    /// Those of `swift_store_config_file`.
    File {
        /// The file.
        path: PathBuf,
        /// `default_swift_reference`: the section for new images.
        default: String,
    },
}

/// A user of a Swift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `project:user`, as locations have it; `None` for an application credential.
    pub user: Option<String>,
    /// Where to log in, as it is written.
    pub address: String,
    /// How to log in.
    pub login: Login,
}

/// How segments become one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargeObject {
    /// By the beginning of their names, as glance_store has it.
    #[default]
    Dynamic,
    /// By a list with their lengths and checksums.
    Static,
}

impl Config {
    /// Reads a `swift` section; `None` if it cannot be used. No server is asked.
    pub fn read(options: &mut Options) -> Option<Self> {
        no_longer_matter(options);
        let multi_tenant = options.bool("swift_store_multi_tenant").unwrap_or(false);
        let logins = logins(options, multi_tenant);
        let delete_after = options.int("imaged_swift_delete_after_s", 0..=YEARS);
        let count = |options: &mut Options, name: &str, default: usize| {
            let count = options.int(name, 1..=4096).and_then(|count| usize::try_from(count).ok());
            count.unwrap_or(default)
        };
        let in_flight = count(options, "imaged_swift_segments_in_flight", 4);
        let connections = count(options, "imaged_swift_connections", 256);
        let large = options.int("swift_store_large_object_size", 1..=LARGEST / MB);
        let segment = options.int("swift_store_large_object_chunk_size", 1..=LARGEST / MB);
        let seed = options.int("swift_store_multiple_containers_seed", 0..=32).unwrap_or(0);
        let large_object = match options.choice("imaged_swift_large_object", &["dlo", "slo"]) {
            Some("slo") => LargeObject::Static,
            _ => LargeObject::Dynamic,
        };
        let container = container(options);
        Some(Self {
            wanted: Box::new(wanted(options)),
            multi_tenant,
            seed: usize::try_from(seed).unwrap_or(0),
            create_container: options.bool("swift_store_create_container_on_put").unwrap_or(false),
            large: large.unwrap_or(5120).saturating_mul(MB),
            segment: segment.map(|mb| mb.saturating_mul(MB)),
            in_flight,
            large_object,
            delete_after: delete_after.filter(|after| *after > 0).map(Duration::from_secs),
            admin_tenants: options.list("swift_store_admin_tenants"),
            expires_soon: options
                .seconds("swift_store_expire_soon_interval", 0)
                .unwrap_or(Duration::from_mins(1)),
            ca: options.path("swift_store_cacert"),
            insecure: options.bool("swift_store_auth_insecure").unwrap_or(false),
            timeout: options.seconds("imaged_swift_timeout_s", 1).unwrap_or(TIMEOUT),
            connections,
            logins: logins?,
            container: container?,
        })
    }
}

fn no_longer_matter(options: &mut Options) {
    for (name, why) in [
        ("swift_store_ssl_compression", "TLS does not compress any more"),
        ("swift_store_retry_get_count", "a download that breaks off goes on by itself"),
        (
            "swift_buffer_on_upload",
            "segments are kept until the server has them, in memory or else in state_dir",
        ),
        ("swift_upload_buffer_dir", "segments for which there is no memory lie in state_dir"),
        (
            "swift_store_use_trusts",
            "segments are sent with the caller's token; give a user beside it for what outlives that",
        ),
    ] {
        options.no_longer_matters(name, why);
    }
}

fn container(options: &mut Options) -> Option<String> {
    const NAME: &str = "swift_store_container";
    let container = options.text(NAME, "glance");
    let dots = container == "." || container == "..";
    if container.contains('/') || container.len() > 200 || dots {
        let what = "a container's name has no `/` and at most 200 bytes, and is more than dots";
        options.fail(NAME, format!("{what}: value={}", shown(&container)));
        return None;
    }
    Some(container)
}

fn wanted(options: &mut Options) -> Wanted {
    let interfaces = ["publicURL", "internalURL", "adminURL"];
    let interface = options.choice("swift_store_endpoint_type", &interfaces);
    let interface = interface.unwrap_or("publicURL").trim_end_matches("URL").to_owned();
    Wanted {
        service: options.text("swift_store_service_type", "object-store"),
        region: options.str("swift_store_region"),
        interface,
        instead: url(options, "swift_store_endpoint"),
    }
}

/// An address of a server; `https` if it has no scheme.
fn url(options: &mut Options, name: &str) -> Option<Url> {
    let text = options.str(name)?;
    let url = address(&text);
    if url.is_none() {
        // A login may have been written into it.
        options.fail(name, "must be a URL without a login in it, such as https://host:5000/v3");
    }
    url
}

/// An address of a server; `https` if it has no scheme.
pub(super) fn address(text: &str) -> Option<Url> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url: Url = whole.parse().ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    (plain && matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn logins(options: &mut Options, multi_tenant: bool) -> Option<Logins> {
    const FILE: &str = "swift_store_config_file";
    const ADDRESS: &str = "swift_store_auth_address";
    let path = options.path(FILE);
    let default = options.text("default_swift_reference", "ref1");
    let own = own(options);
    match path {
        Some(_) if multi_tenant => {
            let what = "goes with swift_store_multi_tenant = false alone: a multi-tenant store has no \
                        references, remove one of the two";
            options.fail(FILE, what);
            None
        }
        Some(path) => Some(Logins::File { path, default }),
        None => match own? {
            Some(user) => Some(Logins::Own(Box::new(user))),
            None if multi_tenant && let Some(url) = url(options, ADDRESS) => {
                Some(Logins::Callers(url))
            }
            None => {
                let what = "is needed, with swift_store_user and swift_store_key, or with an \
                            application credential, or all of them in swift_store_config_file";
                options.fail(ADDRESS, what);
                None
            }
        },
    }
}

/// The user of the section itself, if it has one; `None` if that cannot be used.
fn own(options: &mut Options) -> Option<Option<User>> {
    const ADDRESS: &str = "swift_store_auth_address";
    let version = options.choice("swift_store_auth_version", &["3", "2", "1"]).unwrap_or("3");
    if version == "2" {
        options.note("swift_store_auth_version", "version 2 is no more: version 3 is used");
    }
    let user = options.str("swift_store_user");
    let key = options.secret("swift_store_key");
    let id = options.str("swift_store_application_credential_id");
    let secret = options.secret("swift_store_application_credential_secret");
    // An application credential has its project in it.
    let _named = options.str("swift_store_project_name");
    let _numbered = options.str("swift_store_project_id");
    let given = options.given(ADDRESS);
    let domain = || Domain::Id("default".into());
    let user = match (id.zip(secret), user.zip(key)) {
        (None, None) => return Some(None),
        (Some((id, secret)), _) => Ok((None, Who::ApplicationCredential { id, secret })),
        (None, Some((user, key))) => {
            let who = password(version, &user, key, domain(), domain());
            who.map(|who| (Some(user), who)).ok_or("swift_store_user")
        }
    };
    let url = url(options, ADDRESS);
    let address = options.text(ADDRESS, "");
    match (user, url) {
        (Ok((user, who)), Some(url)) => {
            Some(Some(User { user, address, login: Login { url, who } }))
        }
        (Ok(_), None) => {
            if !given {
                options.fail(ADDRESS, "is needed: where to log in, such as https://host:5000/v3");
            }
            None
        }
        (Err(name), _) => {
            options.fail(name, "is PROJECT:USER, with one colon");
            None
        }
    }
}

/// Who logs in with a password: `user` is `project:user`.
pub(super) fn password(
    version: &str,
    user: &str,
    key: Secret,
    user_domain: Domain,
    project_domain: Domain,
) -> Option<Who> {
    if version == "1" {
        return Some(Who::V1 { user: user.to_owned(), key });
    }
    let (project, name) = user.split_once(':').filter(|(_, name)| !name.contains(':'))?;
    Some(Who::Password {
        user: Name::In(user_domain, name.to_owned()),
        password: key,
        scope: Scope::Project(Name::In(project_domain, project.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<Config>, Vec<String>, usize) {
        let mut options = Options::of("objects", pairs);
        let config = Config::read(&mut options);
        let found = options.finish();
        let problems = found.problems.iter().map(ToString::to_string).collect();
        (config, problems, found.notes.len())
    }

    const OWN: [(&str, &str); 3] = [
        ("swift_store_auth_address", "http://127.0.0.1:5000/v3"),
        ("swift_store_user", "service:glance"),
        ("swift_store_key", "s3cret"),
    ];

    #[test]
    fn a_section_with_a_login_has_glance_stores_defaults() {
        let (config, problems, notes) = read(&OWN);
        assert_eq!((problems, notes), (Vec::<String>::new(), 0));
        let config = config.unwrap();
        assert_eq!((config.container.as_str(), config.seed), ("glance", 0));
        assert_eq!((config.large, config.segment), (5_242_880_000, None));
        assert_eq!(config.wanted.interface, "public");
        assert!(!config.multi_tenant && !config.create_container);
        assert_eq!(config.large_object, LargeObject::Dynamic);
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn every_option_is_read() {
        let more = [
            ("swift_store_large_object_size", "10"),
            ("swift_store_large_object_chunk_size", "2"),
            ("swift_store_multiple_containers_seed", "3"),
            ("swift_store_container", "images"),
            ("swift_store_create_container_on_put", "true"),
            ("swift_store_region", "RegionOne"),
            ("swift_store_endpoint", "https://swift.example.com/v1/AUTH_x"),
            ("swift_store_endpoint_type", "internalURL"),
            ("swift_store_service_type", "objects"),
            ("swift_store_admin_tenants", "a, b"),
            ("swift_store_expire_soon_interval", "5"),
            ("swift_store_cacert", "/etc/ca.pem"),
            ("swift_store_auth_insecure", "true"),
            ("swift_store_auth_version", "1"),
            ("imaged_swift_large_object", "slo"),
            ("imaged_swift_delete_after_s", "3600"),
            ("imaged_swift_segments_in_flight", "2"),
            ("imaged_swift_connections", "9"),
            ("imaged_swift_timeout_s", "7"),
            ("swift_store_retry_get_count", "3"),
            ("swift_buffer_on_upload", "true"),
        ];
        let (config, problems, notes) = read(&[&OWN[..], &more[..]].concat());
        assert_eq!((problems, notes), (Vec::<String>::new(), 2));
        let config = config.unwrap();
        assert_eq!((config.large, config.segment), (10_240_000, Some(2_048_000)));
        assert_eq!((config.seed, config.container.as_str()), (3, "images"));
        assert_eq!(config.wanted.region.as_deref(), Some("RegionOne"));
        assert_eq!(config.wanted.interface, "internal");
        assert_eq!(config.admin_tenants, ["a", "b"]);
        assert_eq!(config.large_object, LargeObject::Static);
        assert_eq!(config.delete_after, Some(Duration::from_hours(1)));
        let Logins::Own(user) = &config.logins else { panic!("{:?}", config.logins) };
        assert!(matches!(&user.login.who, Who::V1 { user, .. } if user == "service:glance"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (pairs, said) in [
            (vec![], "swift_store_auth_address: is needed, with swift_store_user"),
            (vec![OWN[1], OWN[2]], "swift_store_auth_address: is needed"),
            (vec![OWN[0], ("swift_store_user", "glance"), OWN[2]], "PROJECT:USER"),
            (
                vec![("swift_store_auth_address", "http://a:s3cret@b/"), OWN[1], OWN[2]],
                "without a login",
            ),
            (
                vec![
                    ("swift_store_multi_tenant", "true"),
                    ("swift_store_config_file", "/etc/s.conf"),
                ],
                "swift_store_multi_tenant = false",
            ),
            (vec![OWN[0], OWN[1], OWN[2], ("swift_store_container", "a/b")], "no `/`"),
            (
                vec![OWN[0], OWN[1], OWN[2], ("swift_store_endpoint_type", "public")],
                "one of publicURL",
            ),
        ] {
            let (_, problems, _) = read(&pairs);
            assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
            assert!(problems.iter().all(|problem| !problem.contains("s3cret")), "{problems:?}");
        }
    }

    #[test]
    fn a_multi_tenant_store_needs_no_login_of_its_own() {
        let (config, problems, _) = read(&[("swift_store_multi_tenant", "true"), OWN[0]]);
        assert_eq!(problems, Vec::<String>::new());
        assert!(matches!(config.unwrap().logins, Logins::Callers(_)));
    }
}
