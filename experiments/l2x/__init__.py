"""Learning to explain: one network chooses k words of a review, another says from them alone how an aspect was rated.

The choice is a latent subset: L2X, SoftSub, relaxed top k by four regularizers, and correlated top k, whose utilities
have a say on neighbours, so that phrases are chosen rather than words. What was chosen is held against what people
marked, or what stands for that. The third experiment of Paulus et al. 2020.

reviews.py    ``cvxsst data reviews``            data.py       reviews as arrays: one file for every source
cebab.py      restaurant reviews with edits      subsets.py    the latent subsets, a line each
beer.py       the published format               model.py      the networks
planted.py    a corpus whose answer is known     config.py     the settings of a run
training.py   the model that is trained          report.py     the table and the pictures
timing.py     seconds of a step                  commands.py   ``cvxsst train|search|table|test l2x``
"""
