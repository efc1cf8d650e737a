//! `imaged completions` and `imaged man`, made from the command line's own description.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{
    args::{Args, Completions},
    output::{Output, print},
};

/// Prints a completion script.
pub(crate) fn completions(args: &Completions) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "imaged", &mut script);
    Output { json: false }.end(print(|out| out.write_all(&script)))
}

/// Prints one page for the program and all its commands.
pub(crate) fn man() -> ExitCode {
    Output { json: false }.end(print(page))
}

fn page(out: &mut dyn Write) -> io::Result<()> {
    let mut imaged = Args::command();
    imaged.build();
    let top = Man::new(imaged.clone());
    let mut text = Vec::new();
    top.render_title(&mut text)?;
    top.render_name_section(&mut text)?;
    top.render_synopsis_section(&mut text)?;
    top.render_description_section(&mut text)?;
    for command in imaged.get_subcommands().filter(|command| command.get_name() != "help") {
        text.extend(section(command)?);
    }
    let mut codes = Vec::new();
    top.render_extra_section(&mut codes)?;
    let codes = String::from_utf8_lossy(&codes).replacen(".SH EXTRA", ".SH EXIT STATUS", 1);
    text.extend(codes.into_bytes());
    top.render_version_section(&mut text)?;
    out.write_all(&text)
}

/// A command's section: its synopsis and options, a level lower than a page of its own has them.
fn section(command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let page = Man::new(command.clone());
    page.render_description_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_options_section(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Escaped as mangen escapes names elsewhere, so that a search for one finds both.
    let name = command.get_name().to_uppercase().replace('-', "\\-");
    let title = format!(".SH IMAGED {name}");
    let text = text.replacen(".SH DESCRIPTION", &title, 1).replace("\n.SH ", "\n.SS ");
    // The title, the first of all, is no subsection.
    Ok(text.replacen(&title.replacen(".SH", ".SS", 1), &title, 1).into_bytes())
}
