"""Completion scripts for shells."""

import click


@click.command(
    epilog="""\b
bash:  eval "$(holdfast completion bash)"         in ~/.bashrc
zsh:   eval "$(holdfast completion zsh)"          in ~/.zshrc
fish:  holdfast completion fish | source          in ~/.config/fish/config.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes holdfast's commands and options."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
