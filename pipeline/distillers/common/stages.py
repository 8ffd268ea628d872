"""Which stage maps of two networks belong together.

Published code zips the two lists of stage maps, which drops the last stages of the longer list without a word (vgg13's
fourth map never teaches a resnet8x4). Here lists of different length are an error unless a variant asks for one of two
ways to cut them: `repdistiller` as published, `aligned` from the other end.
"""

from collections.abc import Callable, Mapping

from pipeline.contracts import InputError, Setting, Shapes
from pipeline.distillers.common.maps import Shape

Pairs = tuple[tuple[int, int], ...]
CUT = "variant=repdistiller (the first ones of both, as published) or variant=aligned (the last ones of both)"

LIST_VARIANTS: Mapping[str, str] = {
    "matched": "stage lists of equal length; other pairs of networks are an error",
    "aligned": "of the longer list the first stages are unused: last stage goes with last stage",
    "repdistiller": "of the longer list the last stages are unused, as its zip has it",
    "mdistiller": "as repdistiller",
    "simkd": "as repdistiller",
}


def _equal(student: int, teacher: int) -> Pairs:
    if student != teacher:
        raise InputError(f"the student has {student} stage maps, the teacher {teacher}")
    return tuple((i, i) for i in range(1, student + 1))


def _first(student: int, teacher: int) -> Pairs:
    return tuple((i, i) for i in range(1, min(student, teacher) + 1))


def _last(student: int, teacher: int) -> Pairs:
    shared = min(student, teacher)
    return tuple((student - shared + i, teacher - shared + i) for i in range(1, shared + 1))


# Variants that are not listed (paper) take equal lists: no paper speaks of others.
_RULES: Mapping[str, Callable[[int, int], Pairs]] = {
    "aligned": _last,
    "repdistiller": _first,
    "mdistiller": _first,
    "simkd": _first,
}


def both_shapes(setting: Setting | None, method: str) -> tuple[Shapes, Shapes]:
    """Shapes of student and teacher. Raises InputError where they are not known."""
    if setting is None or setting.teacher is None:
        raise InputError(f"{method} needs the shapes of both networks: use teacher.source=live")
    return setting.student, setting.teacher


def stage_pairs(setting: Setting | None, variant: str, method: str, advice: str = CUT) -> Pairs:
    """(student, teacher) indices into ModelOutput.features; the stem (index 0) is never among them.

    advice: variants of the method that take lists of different length. Raises InputError, with the advice, for lists
    that the variant cannot pair.
    """
    student, teacher = both_shapes(setting, method)
    for whose, shapes in (("student", student), ("teacher", teacher)):
        if len(shapes.features) < 2:  # the stem is none
            raise InputError(f"{method} compares stage maps, and the {whose} has no stage maps")
    try:
        return _RULES.get(variant, _equal)(len(student.features) - 1, len(teacher.features) - 1)
    except InputError as error:
        raise InputError(f"{method}: {error}: choose {advice}") from None


def paired_sizes(setting: Setting | None, pairs: Pairs, method: str) -> list[tuple[Shape, Shape]]:
    """(channels, height, width) of student and teacher for each pair."""
    student, teacher = both_shapes(setting, method)
    return [(student.features[i], teacher.features[j]) for i, j in pairs]
