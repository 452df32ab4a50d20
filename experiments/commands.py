"""The subcommands that the experiments add to ``cvxsst``: verb, then experiment."""

import typer

from experiments.graph_layout import commands as graph_layout

data = typer.Typer(help="Make the data of an experiment.", no_args_is_help=True, rich_markup_mode="markdown")
train = typer.Typer(help="Train the model of an experiment.", no_args_is_help=True, rich_markup_mode="markdown")
search = typer.Typer(help="Search the settings of an experiment.", no_args_is_help=True, rich_markup_mode="markdown")
table = typer.Typer(help="Print the results beside the paper's.", no_args_is_help=True, rich_markup_mode="markdown")


@data.callback()
@train.callback()
@search.callback()
@table.callback()
def verb() -> None:
    """With a callback Typer keeps the name of the experiment even where there is only one."""


data.command("graph-layout")(graph_layout.data)
train.command("graph-layout")(graph_layout.train)
search.command("graph-layout")(graph_layout.search)
table.command("graph-layout")(graph_layout.table)
