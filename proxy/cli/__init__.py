"""The `tally` command. Sub-commands are imported when they are called, so each pays only for what it uses."""

from importlib import import_module

import click

from proxy import __version__

_COMMANDS = {
    "serve": ("proxy.cli.serve", "serve"),
    "demo": ("proxy.cli.demo", "demo"),
    "config": ("proxy.cli.config", "config"),
    "tenant": ("proxy.cli.tenants", "tenant"),
    "key": ("proxy.cli.keys", "key"),
    "ledger": ("proxy.cli.ledger", "ledger"),
    "replay": ("proxy.cli.replay", "replay"),
    "eval": ("proxy.cli.eval", "evaluate"),
    "pool": ("proxy.cli.pool", "pool"),
    "predictor": ("proxy.cli.predictor", "predictor"),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.command(cls=_Lazy)
@click.version_option(__version__, prog_name="tally")
def main() -> None:
    """An OpenAI-compatible proxy that makes any model more accurate for a budget."""
