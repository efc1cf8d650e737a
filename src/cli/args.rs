//! What may be written on the command line.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
    error::ErrorKind,
};
use imaged::{client::Mode, config::HASHES, digest::Algo, wire::range};
use imaged_drivers::{Span, kit::http::Url, options::shown};

use super::output::{Failure, Output, stdout};

/// The storage data plane for OpenStack images: one local daemon, many stores.
#[derive(Debug, Parser)]
#[command(name = "imaged", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, \
                          3 daemon not reachable, 4 not found, 5 already exists, \
                          141 who read standard output has left.\n\
                          Without --socket the daemon is sought at $IMAGED_SOCKET, else at \
                          /run/imaged/imaged.sock, else at $XDG_RUNTIME_DIR/imaged.sock.";

const VARIABLES: &str = "Who asks is told by the variables of the openstack command: OS_AUTH_URL, \
                         OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME, OS_USER_DOMAIN_NAME, \
                         OS_PROJECT_DOMAIN_NAME, or their _ID; or OS_TOKEN; or \
                         OS_APPLICATION_CREDENTIAL_ID and _SECRET. Also OS_REGION_NAME, OS_INTERFACE, \
                         OS_CACERT and OS_IMAGE_ENDPOINT_OVERRIDE.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon until SIGTERM or SIGINT, or SIGQUIT, which waits for all transfers; SIGHUP reads the
    /// configuration again
    Serve(Serve),
    /// Store an image, from a file or from standard input
    Put(Put),
    /// Read an image, whole or part, and verify it if its digest is known
    Get(Get),
    /// Show an image's size, location and digests
    Stat(Image),
    /// Remove an image
    Delete(Image),
    /// List the images of a store
    List(List),
    /// Clear away what an unfinished upload has left whose daemon is gone for good, as with its node; a whole
    /// image stays, and so does what a living daemon writes
    Recover(Recover),
    /// Show every store, its state and its space
    Stores(Daemon),
    /// Make an image from another location or from a volume
    Copy(Copy),
    /// Show or cancel work in the background
    Jobs(Jobs),
    /// Show what a project uses of its quotas in Glance, which needs the routes of
    /// `imaged.glance.api`, and what remains
    #[command(after_help = VARIABLES)]
    Usage(Usage),
    /// Try a Glance that has the daemon under it: images are put into each of its stores, imported,
    /// read and deleted again, and nothing is left
    #[command(after_help = VARIABLES)]
    Selftest(SelfTest),
    /// Read the configuration, open each store, and say what is wrong
    CheckConfig(Check),
    /// Make the daemon's configuration from Glance's
    ImportConfig(Import),
    /// Measure a store: throughput, latency, CPU and memory, against what the machine could do
    Bench(Bench),
    /// Print a shell's completion script
    Completions(Completions),
    /// Print the manual page, in roff
    Man,
}

/// Which daemon, and for whom to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Daemon {
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sources {
    /// A configuration file; a later one overrides an earlier one
    #[arg(long = "config-file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A directory whose *.conf files are read after the files, in order of their names
    #[arg(long = "config-dir", value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Where to listen, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Also say which of the locations in FILE, one a line, no store could serve; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) locations: Option<PathBuf>,
    /// Also print what has to be given so that Cinder's volumes become images by clones, and what of it is
    /// missing; POOLs are those of the volumes in Ceph
    #[arg(
        long,
        value_name = "POOL",
        value_delimiter = ',',
        num_args = 0..,
        require_equals = true,
        default_missing_value = "volumes",
        value_parser = pool,
        conflicts_with = "locations"
    )]
    pub(crate) for_cinder: Option<Vec<String>>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Glance's configuration file; a later one overrides an earlier one
    #[arg(required_unless_present = "dirs", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A directory whose *.conf files are read after the files, in order of their names
    #[arg(long = "config-dir", value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// The file to make, readable by its owner alone; one that is there is left as it is
    /// [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "imaged put [OPTIONS] STORE ID FILE\n       \
                            imaged put [OPTIONS] --store STORE... ID FILE")]
pub(crate) struct Put {
    /// The store, unless --store names it; the image's id, of which one that is taken is refused; and the
    /// file to store, or - for standard input
    #[arg(value_names = ["STORE", "ID", "FILE"], num_args = 1..=3, required = true)]
    pub(crate) words: Vec<OsString>,
    /// A store that is to have the image; several get it in one pass, and each for itself
    #[arg(long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// Store the image in all of these stores, or in none
    #[arg(long, requires = "stores")]
    pub(crate) all_or_none: bool,
    /// The image's length; another length is refused, and nothing is stored
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<u64>,
    /// The digest to compute beside md5 [default: the daemon's]
    #[arg(long, value_name = "ALGO", value_parser = algo())]
    pub(crate) hash_algo: Option<Algo>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// The store
    pub(crate) store: String,
    /// The image's id, or its location
    pub(crate) id: String,
    /// The file to write, replaced when the image is whole, or - for standard output
    /// [default: a file named ID]
    pub(crate) file: Option<PathBuf>,
    /// Only these bytes, counted from 0 and both included; A- to the end, -N the last N
    #[arg(long, value_name = "A-B", value_parser = span, allow_hyphen_values = true)]
    pub(crate) range: Option<Span>,
    /// Do not compare the image with its known digest
    #[arg(long)]
    pub(crate) no_verify: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Image {
    /// The store
    pub(crate) store: String,
    /// The image's id, or its location
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The store
    pub(crate) store: String,
    /// The image's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The store
    pub(crate) store: String,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("origin").required(true).args(["from", "from_volume"]))]
#[command(override_usage = "imaged copy [OPTIONS] STORE ID --from LOCATION\n       \
                            imaged copy [OPTIONS] STORE ID --from-volume VOLUME\n       \
                            imaged copy [OPTIONS] --store STORE... ID --from LOCATION")]
pub(crate) struct Copy {
    /// The store that gets the image, unless --store names it; and the new image's id, of which one that is
    /// taken is refused
    #[arg(value_names = ["STORE", "ID"], num_args = 1..=2, required = true)]
    pub(crate) words: Vec<String>,
    /// A store that is to have the image; several get it in one pass, and each for itself
    #[arg(long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// Make the image in all of these stores, or in none
    #[arg(long, requires = "stores")]
    pub(crate) all_or_none: bool,
    /// The location of the image to copy
    #[arg(long, value_name = "LOCATION")]
    pub(crate) from: Option<String>,
    /// The store that has that location [default: the one that fits]
    #[arg(long, value_name = "STORE", requires = "from")]
    pub(crate) from_store: Option<String>,
    /// The volume to copy: POOL/NAME or POOL/NAME@SNAPSHOT in Ceph, or a Cinder volume's id
    #[arg(long, value_name = "VOLUME")]
    pub(crate) from_volume: Option<String>,
    /// clone or copy inside the backend, or stream through the daemon; auto does what can be done
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = mode())]
    pub(crate) mode: Mode,
    /// The digest to compute beside md5 [default: the daemon's]
    #[arg(long, value_name = "ALGO", value_parser = algo())]
    pub(crate) hash_algo: Option<Algo>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Jobs {
    /// The job [default: all]
    pub(crate) id: Option<String>,
    /// End this job, and undo what it was making
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    pub(crate) cancel: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Usage {
    /// The project's id; administrators may name any [default: the one that is logged in to]
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SelfTest {
    /// Glance's URL [default: the one in Keystone's catalog]
    #[arg(long, value_name = "URL", num_args = 0..=1, required = true)]
    pub(crate) glance: Vec<Url>,
    /// Only this of Glance's stores; may be given several times
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Vec<String>,
    /// A small image that Glance is to fetch, to try its import method web-download
    #[arg(long, value_name = "URL")]
    pub(crate) web_download: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) what: imaged::bench::Args,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

fn algo() -> impl clap::builder::TypedValueParser<Value = Algo> {
    PossibleValuesParser::new(HASHES).try_map(|name| name.parse::<Algo>())
}

fn mode() -> impl clap::builder::TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(["auto", "clone", "copy", "stream"])
        .try_map(|name| serde_json::from_value::<Mode>(name.into()))
}

/// The name of a pool of Ceph.
fn pool(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.contains(|c: char| "/@,".contains(c) || c.is_whitespace() || c.is_control())
    {
        return Err(format!(
            "pools are named alone, between commas, as in --for-cinder=volumes,fast: pool={}",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn span(text: &str) -> Result<Span, String> {
    let range = range::read(&format!("bytes={text}"));
    range.map_err(|_unread| "write A-B with A not after B, or A-, or -N".to_owned())
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// It makes no sense, or asked for help; all has been said then.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        let words: Vec<OsString> = std::env::args_os().collect();
        let wrong = match Self::try_parse_from(&words) {
            Ok(args) => return Ok(args),
            Err(wrong) => wrong,
        };
        let asked = matches!(wrong.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if !asked && words.iter().any(|word| word == "--json") {
            let text = wrong.render().to_string();
            let text = text.trim_start_matches("error: ").trim_end();
            return Err(Output { json: true }.end(Err(Failure::usage(text))));
        }
        if asked {
            let printed =
                stdout().and_then(|_out| wrong.print().map_err(|error| Failure::stdout(&error)));
            return Err(Output { json: false }.end(printed));
        }
        // Nobody may be listening.
        drop(wrong.print());
        // Wrong words are wrong whether or not anybody is told.
        Err(ExitCode::from(u8::try_from(wrong.exit_code()).unwrap_or(2)))
    }
}
