"""The subcommands that the experiments add to ``cvxsst``: verb, then experiment.

An experiment is a module with functions named after verbs, as many of them as it has, and a line in ``EXPERIMENTS``.
"""

import typer

from experiments.connectome import commands as connectome
from experiments.graph_layout import commands as graph_layout
from experiments.jigsaw import commands as jigsaw
from experiments.l2x import commands as l2x
from experiments.l2x import reviews
from experiments.listops import commands as listops
from experiments.sorting import commands as sorting

EXPERIMENTS = {
    "connectome": connectome,
    "graph-layout": graph_layout,
    "jigsaw": jigsaw,
    "l2x": l2x,
    "listops": listops,
    "reviews": reviews,
    "sorting": sorting,
}


def verb(name: str, help: str) -> typer.Typer:  # noqa: A002 - Typer's own word
    """``cvxsst NAME EXPERIMENT`` for every experiment that has such a command."""
    group = typer.Typer(help=help, no_args_is_help=True, rich_markup_mode="markdown")

    @group.callback()
    def keeps_the_name_of_a_single_experiment() -> None:
        """Without a callback Typer leaves it out."""

    for experiment, module in EXPERIMENTS.items():
        if hasattr(module, name):
            group.command(experiment)(getattr(module, name))
    return group


data = verb("data", "Make the data of an experiment.")
train = verb("train", "Train the model of an experiment.")
search = verb("search", "Search the settings of an experiment.")
table = verb("table", "Print the results beside the paper's.")
test = verb("test", "Test a trained model.")
