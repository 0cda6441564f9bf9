"""`all4one config`: show recipes and explain settings."""

from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.arguments import Overrides, Recipe
from launch.commands.output_format import Json, OutputFormat
from launch.commands.renamed_options import earlier_name, value_of
from launch.local.imports import collector_paused

app = typer.Typer(
    help="Show recipes and explain settings.\n\nExample: all4one config show cifar10", no_args_is_help=True
)


@app.command(name="show")
def show_config(
    recipe: Recipe = None,
    overrides: Overrides = None,
    as_json: Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a complete recipe.")] = False,
    output: Annotated[OutputFormat | None, earlier_name("--format")] = None,
) -> None:
    """Print the resolved configuration: every setting with its value and where the value comes from.

    Example: all4one config show cifar10 optim.lr=0.5 --yaml
    """
    if recipe is None:
        list_recipes()
        raise typer.Exit(2)
    if as_json and as_yaml:
        raise UserError("--json cannot be combined with --yaml", fix="give only one of them")
    with collector_paused():
        from launch.commands.show_config import show
    asked = OutputFormat.JSON if as_json else OutputFormat.YAML if as_yaml else None
    asked = value_of(asked, output, was="--format", now="--yaml or --json")
    show(recipe, overrides or [], asked or OutputFormat.TABLE)


@app.command(name="explain")
def explain_setting(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Setting or section, such as optim.lr or data.")],
    recipe: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Recipe whose value is printed too.")
    ] = None,
) -> None:
    """Print what a setting means, what it takes and its default.

    Example: all4one config explain method.num_neighbors
    """
    with collector_paused():
        from launch.commands.explain_setting import explain
    explain(key, recipe)


def list_recipes() -> None:
    """Print the shipped recipes, and how to name one."""
    from rich.table import Table

    from data_pipelines.console import plain_console
    from trainer.config.recipes import shipped_recipes

    table = Table("recipe", "description", title="shipped recipes", title_justify="left")
    for name, description in shipped_recipes().items():
        table.add_row(name, description)
    console = plain_console(stderr=True)
    console.print(table)
    console.print("Give the name of a recipe, or the path of your own: all4one train CONFIG [KEY=VALUE]...")
