"""Sources, target sets and benchmark files to the stages that load them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cuvee import components
from cuvee.data.files import Absent
from cuvee.errors import DataError
from cuvee.pins import Pins
from cuvee.recipe import Declared, Located, Source
from cuvee.stage import Loaded, load


@dataclass(frozen=True)
class Sourcing:
    """Args:
    located: the recipe.
    pins: remembered file hashes.
    declared: declared sizes by load stage id, of files that are not there.
    """

    located: Located
    pins: Pins
    declared: dict[str, Declared] = field(default_factory=dict)

    def source(self, name: str, source: Source) -> Loaded:
        """Return the loading of a source of the recipe.

        Raises:
            RecipeError: a rule, column or file that there is not.
        """
        self._check_columns(name, source)
        tagged = source.tags is not None or source.taggers or source.declared is not None
        for key, rule in (("drop", source.drop), ("keep", source.keep)):
            if rule and rule.tags is not None and not tagged:
                message = "looks at tags, and the source has none; name a column with tags: COLUMN, or taggers: [rules]"
                raise self.located.error(message, "sources", name, key)
        try:
            return self.load(name, source)
        except DataError as error:
            raise self.located.error(str(error), "sources", name, "path") from error

    def _check_columns(self, name: str, source: Source) -> None:
        made = source.rows is not None or str(source.path).startswith("builtin:")
        for key in ("columns", "tags") if made else ():
            if getattr(source, key):
                raise self.located.error("is for files; this source is no file", "sources", name, key)
        hub = isinstance(source.path, str) and source.path.startswith("hf://")
        for key in () if hub else ("subset", "split"):
            if getattr(source, key):
                raise self.located.error("is for data sets of the hub (hf://datasets/...)", "sources", name, key)
        if str(source.path).startswith("builtin:") and source.format != "auto":
            raise self.located.error("is for files; this source is no file", "sources", name, "format")

    def load(self, name: str, source: Source, **more: Any) -> Loaded:
        """Return the loading of any rows, `more` being further parameters of the source component.

        Raises:
            DataError: the file is not there, and no declared size stands for it.
        """
        component, given = _source_component(source)
        given |= more
        module = components.find("sources", component)
        params = self.located.check(module.Params, given, "sources", name)
        try:
            identity, where = module.pin(params, self.located.folder, self.pins)
        except Absent:
            if source.declared is None:
                raise
            stage = load("declared", 1, {"name": name, "provisional": True}, label=name, locate={})
            self.declared[stage.id] = source.declared
            return stage
        identity = components.without_absent(module, identity)
        where = {**where, "max_bad": f"{source.max_bad.numerator}/{source.max_bad.denominator}"}
        return load(component, module.VERSION, identity, label=name, locate=where)


def _source_component(source: Source) -> tuple[str, dict[str, Any]]:
    if source.rows is not None:
        return "inline", {"rows": source.rows, "format": source.format}
    if isinstance(source.path, str) and source.path.startswith("builtin:"):
        return "tiny", {"name": source.path.removeprefix("builtin:")}
    given = {"path": source.path or "", "format": source.format, "columns": source.columns, "tags": source.tags}
    if isinstance(source.path, str) and source.path.startswith("hf://"):
        asked = {"subset": source.subset, "split": source.split}
        return "hub", {**given, **{name: value for name, value in asked.items() if value is not None}}
    return "local", given
