"""Categories of COCO's json files: whether files agree, and which become classes."""

import logging
from collections.abc import Mapping

import numpy as np

from ..findings import some_of
from .coco_json import CocoTable
from .text import are_same_names, normalise_name

LOG = logging.getLogger(__name__)


def have_same_categories(first: CocoTable, second: CocoTable) -> bool:
    """Returns whether two files have the same ids and names, in one order.

    Names may differ in their Unicode form.

    Args:
      first: content of one file.
      second: content of the other file.
    """
    ids, names = zip(*first.categories, strict=True)
    other_ids, other_names = zip(*second.categories, strict=True)
    return ids == other_ids and are_same_names(names, other_names)


def warn_of_shared_names(table: CocoTable) -> None:
    """Logs a warning about categories that have the same name.

    Args:
      table: content of a file.
    """
    ids: dict[str, list[str]] = {}
    for category_id, name in table.categories:
        ids.setdefault(normalise_name(name), []).append(str(category_id))
    shared = {name: same for name, same in ids.items() if len(same) > 1}
    if shared:
        LOG.warning(
            "%s: categories of one name, kept as separate classes: %s",
            table.file,
            some_of(f"{n[:60]!r} (ids {some_of(same)})" for n, same in shared.items()),
        )


def choose_classes(tables: Mapping[str, CocoTable], drop_unused: bool) -> list[int]:
    """Returns which categories are classes; logs those without an annotation.

    Args:
      tables: content of each split's file; all have the same categories.
      drop_unused: if true, categories without an annotation in any file are not
        classes.

    Returns:
      Positions in ``categories``, ascending.
    """
    categories = next(iter(tables.values())).categories
    used = np.zeros(len(categories), bool)
    for table in tables.values():
        used[table.annotations.classes] = True
    unused = [categories[k] for k in np.flatnonzero(~used)]
    if unused:
        texts = some_of(f"{name} (id {category_id})" for category_id, name in unused)
        LOG.warning(
            "%s: %d of %d classes have no annotation%s: %s",
            ", ".join(table.file for table in tables.values()),
            len(unused),
            len(categories),
            ", left out" if drop_unused else "",
            texts,
        )
    if drop_unused and used.any():
        return np.flatnonzero(used).tolist()
    return list(range(len(categories)))
