"""Latent arborescences on ListOps: a network infers the tree of an expression from what the expression comes to.

A model sees ``[MAX 2 [MIN 3 9 ] 0 ]`` and shall say 3. Two LSTMs score every token as the head of every other, a
stochastic softmax trick draws a relaxed tree, messages along its edges reach the root, from whose embedding the result
is read. Nobody shows it a tree. Reproduces the table of Paulus et al. 2020, section 8.2.

language.py   words, trees, values            data.py       the expressions, and files in the published form
edges.py      the latent graphs, a line each  model.py      the networks
config.py     the settings of a run           training.py   the model that is trained
report.py     the table and the pictures      timing.py     seconds of a step, and of its latent graphs
commands.py   ``cvxsst data|train|search|table|test listops``
"""
