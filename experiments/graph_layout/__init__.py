"""Latent spanning trees on graph layouts: neural relational inference with three kinds of edge distributions.

A network sees a tree being laid out by springs, frame by frame, but not the tree. An encoder scores the edges, a
stochastic softmax trick draws a relaxed graph, a decoder predicts the next frames from messages along its edges;
trained as a variational autoencoder. Reproduces the table of Paulus et al. 2020, section 8.1.

data.py    the layouts                        edges.py     the edge distributions, one line of the table each
model.py   encoder, decoder, ELBO, metrics    training.py  the autoencoder that is trained
config.py  the settings of a run              report.py    the table and the pictures
timing.py  seconds of a step                  commands.py  ``cvxsst data|train|search|table|test graph-layout``
"""
