"""What a user got wrong, said in one line."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """A config, a path or a checkpoint that cannot be used as it is.

    The message names the config key, the module path or the file, and shapes where
    they matter. The tools print it as a single line and exit with 2.

    Examples:
        >>> import kd_mm
        >>> try:
        ...     kd_mm.load_config('kd_mm::kd/retinanet_r101_r50_sodk.py')
        ... except kd_mm.ConfigError as error:
        ...     print(error)
        config ... does not exist (nearest: retinanet_r101_r50_sokd.py, ...)
    """


@contextmanager
def within(where: str) -> Iterator[None]:
    """Put the place in front of what is said about a mistake.

    Args:
        where (str): A config key with what joins it to the message: 'links.fpn.'.

    Raises:
        ConfigError: The mistake's, longer by ``where`` if that is not said already.
    """
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(where.rstrip('.: ')):
            raise
        raise ConfigError(f'{where}{error}') from error


def nearest(name: str, names: Iterable[str], count: int = 5) -> str:
    """Names most like ``name``, as text for the end of an error message.

    Args:
        name (str): What was asked for.
        names (Iterable[str]): What there is.
        count (int): How many to show at most. Defaults to 5.

    Returns:
        str: ``'nearest: a, b'``, or ``'there are: a, b, ...'`` when nothing is alike.
    """
    names = sorted(set(names))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return 'nearest: ' + ', '.join(close)
    more = ', ...' if len(names) > count else ''
    return 'there are: ' + ', '.join(names[:count]) + more
