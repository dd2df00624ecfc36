"""The user's yaml files (`--conf`), in which values keep their spelling as in overrides."""

from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from evalkit.config.spelling import mark, unmarked
from evalkit.errors import UserError, first_line


class SpelledFiles(FileConfigSource):
    """The user's folder of yaml files, with the same marks as overrides."""

    @staticmethod
    def scheme() -> str:
        """Return the prefix of such a folder in Hydra's search path."""
        return "spelled"

    def load_config(self, config_path: str) -> ConfigResult:
        """Load one file of the folder."""
        file = Path(self.path) / self._normalize_file_name(config_path)
        try:
            result = super().load_config(config_path)
        except yaml.YAMLError as reason:
            raise UserError(f"{file} is not valid yaml: {' '.join(str(reason).split())}") from reason
        except (OSError, UnicodeDecodeError) as reason:  # OmegaConf raises OSError where the file holds no settings
            raise UserError(f"{file} is no file of settings in UTF-8 ({first_line(reason)})") from reason
        if config_path.startswith("experiment/") and not result.header["package"]:
            raise UserError(f"{file} lacks the first line '# @package _global_', by which an experiment sets all keys: add it")
        content = OmegaConf.to_container(result.config)
        if not isinstance(content, dict):
            raise UserError(f"{file} holds a list, not settings such as 'key: value'")
        marked = _marked_file(content, yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
        if "hydra" in content:
            marked["hydra"] = content["hydra"]  # typed by Hydra itself
        if "defaults" in content:
            marked["defaults"] = _texts(marked["defaults"])
        result.config = OmegaConf.create(marked)
        return result


def search_path(folder: Path) -> str:
    """Return the override that adds the user's folder of yaml files to Hydra's search path."""
    Plugins.instance().register(SpelledFiles)
    path = str(folder.resolve()).replace("\\", "\\\\").replace("'", r"\'")
    return f"hydra.searchpath=['{SpelledFiles.scheme()}://{path}']"


def _marked_file(value: Any, node: yaml.Node | None) -> Any:
    if isinstance(node, yaml.MappingNode) and isinstance(value, dict):
        nodes = {key.value: item for key, item in node.value}
        return {key: _marked_file(item, nodes.get(str(key))) for key, item in value.items()}
    if isinstance(node, yaml.SequenceNode) and isinstance(value, list):
        return [_marked_file(item, inner) for item, inner in zip(value, node.value, strict=True)]
    return mark(node.value, value) if isinstance(node, yaml.ScalarNode) and isinstance(value, int | float) else value


def _texts(value: Any) -> Any:
    """Return a defaults list, whose entries all are names."""
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return value if value is None else unmarked(str(value))
