"""The order in which the tutorials are read."""

from pathlib import Path

ORDER = (
    "start",
    "first_profile",
    "choosing_an_estimator",
    "profile_to_adapter",
    "comparing_fairly",
    "own_estimator",
    "large_models",
    "reproducing_figures",
)


class TutorialOrder:
    """Sort key of sphinx-gallery: the place in `ORDER`, new ones last, by name."""

    def __init__(self, source_folder):
        self.source_folder = source_folder

    def __call__(self, filename):
        stem = Path(filename).stem
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), stem)

    def __repr__(self):
        return "TutorialOrder"
