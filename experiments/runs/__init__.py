"""The machinery that all experiments share: an experiment adds its data, its model, its settings and its commands.

settings.py   a frozen dataclass: what decides a run; checks, JSON, the name of the folder
options.py    the options of a command, made from such dataclasses: a default stands once
files.py      files that are whole or not there; arrays with their checksum
seeds.py      random numbers that a seed decides, and not the past of the process
gradients.py  how the gradient reaches the scores of a latent structure, a word each
graphs.py     predicted graphs against true ones
orders.py     predicted orders against true ones
training.py   Lightning: the model's base, checkpoints, resuming, logs, devices, tests
search.py     Ray Tune over some of the settings
tables.py     finished runs, seeds together, beside what was published
experiment.py an experiment by its parts: what its commands do

An experiment is a folder with ``data.py`` (splits: ``len`` and ``batch(rows)``), ``training.py`` (a ``Model``),
``config.py`` (a ``Settings``) and ``commands.py`` (an ``Experiment``, and ``data``, ``train``, ``search``, ``table``,
``test``, as many as it has), and a line in ``experiments/commands.py``. Only training.py and search.py import Lightning
and Ray: a command line that does not train starts at once.
"""
