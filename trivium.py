"""The front door: mounts the `cli.py` of each package. Heavy imports stay inside the commands."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "up": "cluster.cli:up",
    "down": "cluster.cli:down",
    "status": "cluster.cli:status",
    "env": "cluster.cli:env",
    "firewall": "cluster.cli:firewall",
    "keys": "cluster.keys:keys",
    "log": "cluster.log.cli:log",
    "canary": "services.cli:canary",
    "promote": "services.cli:promote",
    "rollback": "services.cli:rollback",
    "reject": "services.cli:reject",
    "audit": "services.cli:audit",
    "agents": "services.agents.cli:agents",
    "chat": "services.chat:chat",
    "cycle": "pipelines.cli:cycle",
    "wheel": "pipelines.cli:wheel",
    "lineage": "pipelines.cli:lineage",
    "export": "pipelines.export.cli:export",
    "seed": "pipelines.seed.cli:seed",
    "demo": "demo.cli:demo",
}


class FrontDoor(click.Group):
    """A group that imports a command only when it is asked for, and turns `ValueError` into one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            # Everything that a user can mend is raised as ValueError with the fix in it; the rest keeps its trace.
            raise click.ClickException(str(error)) from error


@click.command(cls=FrontDoor, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trivium")
def main() -> None:
    """Training, inference and agents on one Ray cluster, joined into a wheel that turns by itself.

    \b
    trivium up                  serve the seed model; any OpenAI client can call it
    trivium wheel on            learn from feedback without being told to
    trivium lineage assistant@1 why a version serves
    trivium demo                watch all of it happen
    """


if __name__ == "__main__":
    main()
