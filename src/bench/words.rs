//! Figures and names as people read them, in text and in HTML alike.

use super::{
    ceiling::Ceilings,
    machine::Machine,
    rate::Rate,
    report::{Measured, Report},
};

/// `4 images of 1 GiB ...`
pub(super) fn load(report: &Report) -> String {
    let load = &report.load;
    let images =
        if load.count == 1 { "1 image".to_owned() } else { format!("{} images", load.count) };
    let zeros = if load.zeros > 0.0 {
        format!("{} of zeros in blocks of {}", share(load.zeros), bytes(load.block))
    } else {
        "incompressible".to_owned()
    };
    let way = if load.descriptor { "descriptor" } else { "socket" };
    let holes = if load.extents { ", read without holes" } else { "" };
    let md5 = if load.md5 && load.hash_algo != "md5" { "md5 and " } else { "" };
    format!(
        "{images} of {}, {} at a time, {zeros}, by {way}{holes}, {md5}{}, into `{}` ({}{})",
        bytes(load.size),
        load.jobs,
        load.hash_algo,
        report.store.id,
        report.store.kind,
        report.store.data_dir.as_deref().map(|dir| format!(" in {dir}")).unwrap_or_default(),
    )
}

/// `2 cores of ..., Linux 6.1.0, ext4 on /dev/vda`
pub(super) fn machine(machine: &Machine) -> String {
    let Machine { cores, model, kernel, memory_bytes, filesystem, load_before } = machine;
    let count = if *cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    let mut text = format!("{count}, {model}");
    if let Some(memory) = memory_bytes {
        text.push_str(&format!(", {} of memory", bytes(*memory)));
    }
    text.push_str(&format!(", Linux {kernel}"));
    if let Some(filesystem) = filesystem {
        text.push_str(&format!(", {filesystem}"));
    }
    if let Some(load) = load_before {
        text.push_str(&format!(", load before the run {load:.2}"));
    }
    text
}

/// The heads of a table of kinds of request, a row each by [`op`].
pub(super) const OP_HEADS: [&str; 13] = [
    "",
    "requests",
    "errors",
    "MB/s",
    "req/s",
    "p50",
    "p90",
    "p99",
    "max",
    "daemon s/GiB",
    "client s/GiB",
    "RSS before",
    "RSS peak",
];

/// What was measured of one kind of request.
pub(super) fn op(op: &Measured) -> Vec<String> {
    let latency = &op.latency_ms;
    let mut row = vec![
        op.op.to_string(),
        op.requests.to_string(),
        op.errors.to_string(),
        rate(op.mb_per_s),
        figure(Some(op.requests_per_s)),
    ];
    row.extend(
        [latency.p50, latency.p90, latency.p99, latency.max]
            .map(|ms| if op.requests > 0 { time(ms) } else { "-".to_owned() }),
    );
    row.push(figure(op.cpu.daemon_seconds_per_gib));
    row.push(figure(op.cpu.client_seconds_per_gib));
    row.extend([op.rss.before_bytes, op.rss.peak_bytes].map(memory));
    row
}

/// The heads of a table of ceilings.
pub(super) const CEILING_HEADS: [&str; 3] = ["each stage alone", "MB/s", "CPU s/GiB"];

/// A row for every ceiling, in the order in which bytes meet them.
pub(super) fn ceilings(ceilings: &Ceilings) -> Vec<Vec<String>> {
    let row = |name: String, measured: Option<&Rate>| {
        let cpu = measured.and_then(|measured| measured.cpu_seconds_per_gib);
        vec![name, rate(measured.map(|measured| measured.mb_per_s)), figure(cpu)]
    };
    let mut all = vec![row("unix socket".to_owned(), Some(&ceilings.socket))];
    for digest in &ceilings.digests {
        let images = match ceilings.streams {
            1 => String::new(),
            images => format!(" of {images} images abreast"),
        };
        all.push(row(format!("{}{images}, one thread", digest.algo), Some(&digest.rate)));
    }
    if let [one, other] = ceilings.digests.as_slice() {
        let how = if ceilings.one_pass { "in one pass" } else { "two threads" };
        let name = format!("{} and {} of one image, {how}", one.algo, other.algo);
        all.push(row(name, Some(&ceilings.digests_at_once)));
    }
    all.push(row("disk, write and fsync".to_owned(), ceilings.disk_write.as_ref()));
    all.push(row("disk, read".to_owned(), ceilings.disk_read.as_ref()));
    all
}

/// What limits, where something does.
pub(super) fn limit(limit: Option<&str>, cores: u32) -> String {
    match limit {
        Some("cores") if cores == 1 => "1 core".to_owned(),
        Some("cores") => format!("{cores} cores"),
        Some(stage) => stage.to_owned(),
        None => "none of these".to_owned(),
    }
}

pub(super) fn rate(mb_per_s: Option<f64>) -> String {
    match mb_per_s {
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
        None => "-".to_owned(),
    }
}

pub(super) fn figure(figure: Option<f64>) -> String {
    match figure {
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) => format!("{figure:.2}"),
        None => "-".to_owned(),
    }
}

pub(super) fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

pub(super) fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes.div_ceil(1 << 20)))
}

/// Milliseconds, in the unit that suits them.
pub(super) fn time(ms: f64) -> String {
    if ms < 1.0 {
        format!("{:.0} us", ms * 1e3)
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1e3)
    }
}

/// Bytes, in the largest unit of which there is at least one.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let of = bytes as f64 / (1_u64 << shift) as f64;
    if bytes.is_multiple_of(1 << shift) {
        format!("{of:.0} {unit}")
    } else {
        format!("{of:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(1000), "1000 bytes");
        assert_eq!(time(0.0834), "83 us");
        assert_eq!(time(2345.6), "2.35 s");
        assert_eq!(memory(Some((80 << 20) + 1)), "81 MiB");
        assert_eq!(rate(None), "-");
        assert_eq!(limit(Some("cores"), 2), "2 cores");
    }
}
