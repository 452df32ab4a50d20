"""The neurons of four worms, identified from their activity: latent permutations of 279, with forbidden entries.

Variational inference of the dynamics W that worms share and of which recorded neuron is which, with several relaxations
of the permutations, beside a Markov chain. Reproduces the table of Mena et al. 2018, section 5.3.

data.py          the wiring, simulated worms     permutations.py  the relaxations, one line of the table each
model.py         the likelihood, q(W)            mcmc.py          a step of the chain
config.py        the settings of a run           training.py      what is trained
report.py        the table and the pictures      timing.py        milliseconds of a step
commands.py      ``cvxsst data|train|table|test connectome``
"""
