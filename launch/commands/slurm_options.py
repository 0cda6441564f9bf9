"""The options of SLURM jobs, defined once for all commands that submit."""

import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from data_pipelines.errors import UserError

_PARAMETER = "slurm_options"
_SETTINGS: Mapping[str, Any] = {
    "nodes": Annotated[int | None, typer.Option(min=1, help="Number of nodes.")],
    "gpus_per_node": Annotated[int | None, typer.Option(min=0, help="GPUs on each node. 0: CPUs only.")],
    "tasks_per_node": Annotated[
        int | None,
        typer.Option(min=1, help="Processes on each node. Default: one for each GPU, or as before."),
    ],
    "cpus_per_task": Annotated[int | None, typer.Option(min=1, help="CPU cores for each process.")],
    "time": Annotated[str | None, typer.Option(metavar="90m|12h|2d", help="Time limit of each attempt.")],
    "partition": Annotated[str | None, typer.Option(help="SLURM partition.")],
    "account": Annotated[str | None, typer.Option(help="Account to charge.")],
    "qos": Annotated[str | None, typer.Option(help="Quality of service.")],
    "constraint": Annotated[str | None, typer.Option(help="Features that the nodes must have.")],
    "exclude": Annotated[str | None, typer.Option(help="Nodes to exclude.")],
    "mem": Annotated[str | None, typer.Option(metavar="64G", help="Memory of each node.")],
    "setup": Annotated[
        list[str] | None, typer.Option(help="Shell line to run before the processes start. May be repeated.")
    ],
    "srun_args": Annotated[
        list[str] | None,
        typer.Option(
            "--srun-arg", help="Additional srun argument (--srun-arg=--cpu-bind=none). May be repeated."
        ),
    ],
    "extra": Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="Additional sbatch option (--slurm mail-type=END). May be repeated.",
        ),
    ],
    "container": Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Image in which the processes run. The setting slurm.container_runtime names what runs it.",
        ),
    ],
    "spares": Annotated[
        int | None,
        typer.Option(
            min=0, help="Most additional nodes that wait. One takes the place of a node that fails."
        ),
    ],
    "chain": Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of jobs to queue one after the other, for clusters that forbid requeues."
        ),
    ],
}
"""The option of each setting in the `slurm:` section of a recipe."""
_SUSPECTS = "exclude_suspects"
_EXCLUDE_SUSPECTS: Any = Annotated[
    bool,
    typer.Option(
        "--exclude-suspects",
        help="Exclude the suspect nodes that `all4one status` names because they failed repeatedly.",
    ),
]
_NAMES = {"srun_args": "--srun-arg", "extra": "--slurm"}
"""Names of options that differ from those of their settings."""
_WORDS = ("true", "false", "yes", "no", "on", "off")
"""The values that switch on or off an sbatch option without a value."""


@dataclass(frozen=True)
class SlurmOptions:
    """The options of SLURM jobs that were given on the command line."""

    given: Mapping[str, Any]
    """Values by the name of their setting."""
    exclude_suspects: bool = False
    """Whether to exclude suspect nodes. The command knows whose failures count."""

    def __bool__(self) -> bool:
        return bool(self.given) or self.exclude_suspects

    @property
    def overrides(self) -> list[str]:
        """The same as `slurm.KEY=VALUE`. Values are written as JSON, so strings stay strings."""
        plain = [f"slurm.{name}={json.dumps(value)}" for name, value in self.given.items() if name != "extra"]
        return [*plain, *map(_extra, self.given.get("extra", ()))]

    def refuse(self, fix: str) -> None:
        """Raise a UserError with this fix if options were given, because the command submits no job."""
        if self:
            given = [*self.given, *([_SUSPECTS] if self.exclude_suspects else [])]
            names = [_NAMES.get(name, f"--{name.replace('_', '-')}") for name in given]
            raise UserError(
                f"{', '.join(names)}: only for SLURM jobs, and this command submits none", fix=fix
            )


NONE = SlurmOptions({})


def with_slurm_options(
    *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of SLURM jobs, in place of its parameter `slurm_options`.

    Args:
        without: settings that make no sense for the command, or that it defines itself.
    """
    offered = {name: hint for name, hint in _SETTINGS.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            found = {name: values.pop(name) for name in offered}
            given = {name: value for name, value in found.items() if value is not None}
            options = SlurmOptions(given, exclude_suspects=values.pop(_SUSPECTS))
            command(**values, **{_PARAMETER: options})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += (
                [
                    *(
                        inspect.Parameter(name, kind, default=None, annotation=hint)
                        for name, hint in offered.items()
                    ),
                    inspect.Parameter(_SUSPECTS, kind, default=False, annotation=_EXCLUDE_SUSPECTS),
                ]
                if parameter.name == _PARAMETER
                else [parameter.replace(kind=kind)]
            )
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _extra(assignment: str) -> str:
    """Return the override of a `--slurm KEY=VALUE`.

    The value is quoted because sbatch parses it: in brackets it would otherwise be YAML.
    """
    key, separator, value = assignment.partition("=")
    is_yaml = not value or value[0] in "'\"" or value.lower() in _WORDS
    return f"slurm.extra.{key}{separator}{value if is_yaml else json.dumps(value)}"
