"""Names of validation metrics."""

_HIGHER = ('map', 'ap', 'top', 'accuracy', 'recall', 'precision', 'f1', 'ar', 'miou')


def better_when_higher(name: str) -> bool:
    """Whether a metric is known to be, by its name in MMEngine's log.

    Args:
        name (str): Such as 'coco/bbox_mAP' or 'accuracy/top1'.
    """
    words = name.lower().replace('/', '_').split('_')
    return any(word.startswith(_HIGHER) for word in words)
