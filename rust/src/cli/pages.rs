//! `completions` and `man`: what a shell and a reader need, made from the command line's description.

use anyhow::{Result, bail};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;
use super::output::Output;

/// Prints the completions for a shell.
pub fn completions(shell: Shell, output: &mut Output) -> Result<()> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "feelprint", &mut page);
    output.print_bytes(&page, b"")
}

/// Prints the man page of the program, or of one of its commands.
pub fn man(name: Option<&str>, output: &mut Output) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    if let Some(name) = name {
        let names: Vec<_> = command.get_subcommands().map(|it| it.get_name().to_string()).collect();
        let Some(found) = command.find_subcommand(name) else {
            bail!("{name}: no command of feelprint, expected one of {}", names.join(", "));
        };
        command = found.clone().display_name(format!("feelprint-{name}"));
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    output.print_bytes(&page, b"")
}
