//! A report as one page that needs nothing else: its style and plots are in it.

use std::fmt::Write as _;

use super::{machine::utc, plot, report::Report, words};

/// The look of the page. Plots name their colours by values that are never shown themselves.
const STYLE: &str = include_str!("page.css");

impl Report {
    /// One page for a browser, readable in light and dark.
    #[must_use]
    pub fn html(&self) -> String {
        let title = format!("imaged bench: {}", self.store.id);
        let mut page = String::with_capacity(64 << 10);
        let _infallible = write!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{}</h1>\n\
             <p class=\"lead\">{}</p>\n",
            plain(&title),
            plain(&title),
            plain(&words::load(self)),
        );
        page.push_str(&self.tiles());
        self.wrong(&mut page);
        let plots = [
            (
                "Throughput against what each stage can do alone",
                "The wide bar is what was measured, all images together. Each bar beneath is a \
                 stage measured alone in the same run, and how much of it was reached; the one \
                 marked \u{25c0} limits. The cores are at their limit when none is idle.",
                plot::throughput(self),
            ),
            (
                "Latency",
                "Each nine more is as far to the right again; a curve ends with its slowest \
                 request. Both scales are logarithmic.",
                plot::latency(self),
            ),
            (
                "CPU time for a GiB",
                "All threads, user and system time. What the digests take by themselves is in the \
                 daemon's share of a put.",
                plot::cpu(self),
            ),
            (
                "The daemon's memory",
                "Resident set; the line is a put, get or other phase's.",
                plot::memory(self),
            ),
        ];
        for (head, text, drawn) in plots {
            if let Some(drawn) = drawn {
                let _infallible = write!(
                    page,
                    "<section>\n<h2>{head}</h2>\n<p>{text}</p>\n<figure>\n{drawn}</figure>\n\
                     </section>\n"
                );
            }
        }
        page.push_str(&self.tables());
        page.push_str("</body>\n</html>\n");
        page
    }

    /// The figures that people look for first.
    fn tiles(&self) -> String {
        let mut tiles = String::from("<div class=\"tiles\">\n");
        for op in &self.ops {
            let (figure, unit) = match op.mb_per_s {
                Some(rate) => (words::rate(Some(rate)), "MB/s".to_owned()),
                None => (words::time(op.latency_ms.p50), "median".to_owned()),
            };
            let below = match (&op.limit, op.mb_per_s) {
                (Some(stage), _) => {
                    format!("limit: {}", words::limit(Some(stage), self.machine.cores))
                }
                (None, Some(_)) => "limit: none of the stages".to_owned(),
                (None, None) => format!("{} a second", words::figure(Some(op.requests_per_s))),
            };
            let _infallible = writeln!(
                tiles,
                "<div class=\"tile {0}\"><h3>{0}</h3><b>{figure}</b> {unit}<small>{below}</small></div>",
                op.op
            );
        }
        tiles.push_str("</div>\n");
        tiles
    }

    fn wrong(&self, page: &mut String) {
        let notes = self.notes.iter().map(|note| format!("Note: {note}"));
        let failures = self.failures.iter().map(|failure| {
            let (op, image, code) = (failure.op, &failure.image, &failure.code);
            format!("Failed: {op} {image}: {code}: {}", failure.message)
        });
        let left = self.left.iter().map(|id| format!("Left behind: {id}"));
        let all: Vec<_> = notes.chain(failures).chain(left).collect();
        if all.is_empty() {
            return;
        }
        page.push_str("<ul class=\"wrong\">\n");
        for line in all {
            let _infallible = writeln!(page, "<li>{}</li>", plain(&line));
        }
        page.push_str("</ul>\n");
    }

    fn tables(&self) -> String {
        let mut text = String::from("<section>\n<h2>Figures</h2>\n");
        table(&mut text, &words::OP_HEADS, self.ops.iter().map(words::op));
        table(&mut text, &words::CEILING_HEADS, words::ceilings(&self.ceilings).into_iter());
        let facts = [
            ("machine", words::machine(&self.machine)),
            ("begun", utc(self.begun_unix_s)),
            ("imaged", self.imaged.clone()),
            ("command", self.command.join(" ")),
        ];
        text.push_str("<dl>\n");
        for (name, fact) in facts {
            let tag = if name == "command" { "code" } else { "span" };
            let _infallible =
                writeln!(text, "<dt>{name}</dt><dd><{tag}>{}</{tag}></dd>", plain(&fact));
        }
        text.push_str(
            "</dl>\n<p>MB are millions of bytes, GiB are 2<sup>30</sup>.</p>\n</section>\n",
        );
        text
    }
}

fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    text.push_str("<div class=\"table\"><table>\n<tr>");
    for head in heads {
        let _infallible = write!(text, "<th>{head}</th>");
    }
    text.push_str("</tr>\n");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _infallible = write!(text, "<td>{}</td>", plain(&cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
}

/// Text that is nothing but text in HTML.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::bench::{plot, report::tests::report};

    #[test]
    fn the_page_needs_nothing_else_and_runs_nothing() {
        let page = report().html();
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for word in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("a &lt;b&gt;") && page.contains("it &lt;broke&gt;"));
    }

    #[test]
    fn every_colour_of_a_plot_has_a_light_and_a_dark_value() {
        let colours = [plot::INK, plot::PALE, plot::GRID].into_iter().chain(plot::OPS);
        for colour in colours {
            let name = format!("#{0:02X}{0:02X}{0:02X}", colour.0);
            assert_eq!(super::STYLE.matches(&name).count(), 2, "fill and stroke of {name}");
        }
        let page = report().html();
        let svg = page.split("<svg").skip(1).collect::<String>();
        for part in ["fill=", "stroke="].into_iter().flat_map(|name| svg.split(name).skip(1)) {
            let colour = part.split('"').nth(1).unwrap();
            assert!(colour == "none" || super::STYLE.contains(colour), "{colour}");
        }
    }
}
