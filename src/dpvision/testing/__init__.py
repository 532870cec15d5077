"""Record and replay: a test that a run keeps its guarantee, for dpvision's own methods and for yours.

A run on a data set D is recorded; then the run is made again on a neighbour D′, with the same seed, where the
mechanism hands out what it released on D in place of what it would release. So the two runs have the same
past at every release, which is what sensitivity is about, and all that they may publish must be the same: it
was made of the same releases and of public facts alone. ::

    from dpvision.testing import check_guarantee, method_run, training_run

    check_guarantee(method_run("dp-randp", epsilon=2), images, "replace_one")
    check_guarantee(training_run(my_network, policy=my_views), images, "add_or_remove_one")
"""

from dpvision.evaluation.worst_images import Contribution
from dpvision.testing.guarantee import Comparison, GuaranteeBroken, Run, check_guarantee
from dpvision.testing.neighbours import Neighbours, neighbours
from dpvision.testing.recording import Release, Transcript, recorded
from dpvision.testing.runs import embedding_run, largest_contribution, method_run, training_run

__all__ = [
    "Comparison",
    "Contribution",
    "GuaranteeBroken",
    "Neighbours",
    "Release",
    "Run",
    "Transcript",
    "check_guarantee",
    "embedding_run",
    "largest_contribution",
    "method_run",
    "neighbours",
    "recorded",
    "training_run",
]
