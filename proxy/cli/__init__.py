"""The `tally` command. Sub-commands are imported when they are called, so each pays only for what it uses."""

from importlib import import_module

import click

from proxy import __version__
from proxy.cli.uncollected import uncollected

_COMMANDS = {
    "serve": ("proxy.cli.serve", "serve", "Serve the OpenAI API."),
    "demo": ("proxy.cli.demo", "demo", "Run a real small model here, and compare one sample with a vote."),
    "config": ("proxy.cli.config", "config", "Check configurations."),
    "tenant": ("proxy.cli.tenants", "tenant", "Tenants: who may spend, and how much."),
    "key": ("proxy.cli.keys", "key", "Keys: what a client sends to be known as a tenant."),
    "ledger": ("proxy.cli.ledger", "ledger", "The ledger: what was spent, and whether it adds up."),
    "replay": ("proxy.cli.replay", "replay", "Play recorded samples through the batches that serve live requests."),
    "eval": ("proxy.cli.eval", "evaluate", "Ask questions whose answers are known, and compare strategies."),
    "pool": ("proxy.cli.pool", "pool", "Pools: recorded samples to try strategies on."),
    "predictor": ("proxy.cli.predictor", "predictor", "Predictors: what a question's scores will be, from its text."),
}
"""Where each sub-command is, and what it does: the list of them imports none."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        with uncollected():
            command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in _COMMANDS.items()])


@click.command(cls=_Lazy)
@click.version_option(__version__, prog_name="tally")
def main() -> None:
    """An OpenAI-compatible proxy that makes any model more accurate for a budget."""
