//! Where things are unless the configuration says otherwise.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The places of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// The socket.
    pub(super) socket: PathBuf,
    /// What outlives the process: journal and the like.
    pub(super) state: PathBuf,
    /// Images, without any configuration.
    pub(super) images: PathBuf,
}

impl Places {
    /// By this process's user and environment.
    pub(super) fn here() -> Self {
        Self::of(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))
    }

    /// By the given ones. As the XDG rules say, a relative path counts as unset. A user without
    /// a home has root's places, and is told there if they are closed.
    pub(super) fn of(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let user = |name: &str, below_home: &str| {
            if root {
                return None;
            }
            set(name).or_else(|| set("HOME").map(|home| home.join(below_home)))
        };
        let lib = Path::new("/var/lib/imaged");
        // systemd gives a service one directory here, or several between colons.
        let service = variable("STATE_DIRECTORY")
            .and_then(|list| list.into_string().ok())
            .and_then(|list| list.split(':').next().map(PathBuf::from))
            .filter(|path| path.is_absolute());
        let runtime = if root { None } else { set("XDG_RUNTIME_DIR") };
        Self {
            socket: runtime.unwrap_or_else(|| "/run/imaged".into()).join("imaged.sock"),
            state: service
                .or_else(|| Some(user("XDG_STATE_HOME", ".local/state")?.join("imaged")))
                .unwrap_or_else(|| lib.to_owned()),
            images: user("XDG_DATA_HOME", ".local/share")
                .map_or_else(|| lib.join("images"), |home| home.join("imaged/images")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: bool, variables: &[(&str, &str)]) -> [String; 3] {
        let places = Places::of(root, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        });
        [places.socket, places.state, places.images].map(|path| path.display().to_string())
    }

    #[test]
    fn root_has_the_systems_places() {
        let variables = [("HOME", "/root"), ("XDG_RUNTIME_DIR", "/run/user/0")];
        assert_eq!(
            places(true, &variables),
            ["/run/imaged/imaged.sock", "/var/lib/imaged", "/var/lib/imaged/images"]
        );
    }

    #[test]
    fn a_user_has_places_at_home_or_where_xdg_says() {
        assert_eq!(
            places(false, &[("HOME", "/var/u"), ("XDG_STATE_HOME", "relative")]),
            [
                "/run/imaged/imaged.sock",
                "/var/u/.local/state/imaged",
                "/var/u/.local/share/imaged/images"
            ]
        );
        assert_eq!(
            places(
                false,
                &[
                    ("HOME", "/var/u"),
                    ("XDG_RUNTIME_DIR", "/run/user/7"),
                    ("XDG_STATE_HOME", "/s"),
                    ("XDG_DATA_HOME", "/d")
                ]
            ),
            ["/run/user/7/imaged.sock", "/s/imaged", "/d/imaged/images"]
        );
    }

    #[test]
    fn a_service_has_the_state_directory_of_systemd() {
        let variables = [("HOME", "/var/lib/glance"), ("STATE_DIRECTORY", "/var/lib/imaged:/x")];
        assert_eq!(places(false, &variables)[1], "/var/lib/imaged");
        assert_eq!(places(false, &[])[1], "/var/lib/imaged");
    }
}
