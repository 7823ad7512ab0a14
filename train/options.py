"""From the command line's options to a configuration."""

from collections.abc import Mapping
from typing import Any

from data.reading import TableSpec, parse_bounds, table_spec
from train.config import TrainConfig, parse_setting, read_config_file, split_names

# Configuration keys that have an option of their own; every other one is reached by --set.
VALUES = (
    "epochs", "max_minutes", "precision", "batch_size", "accumulate_grad_batches", "learning_rate",
    "ema_decay", "num_workers", "random_seed", "device", "init",
)  # fmt: skip
LISTS = ("target_metrics", "validation_servers")
SWITCHES = ("auto_lr_find", "deterministic")


def configure(
    options: Mapping[str, Any], saved: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, TableSpec]:
    """Merge a saved run's configuration, a file, flags and --set pairs, later ones winning.

    Args:
        options: of the command line by their names; those not given are None, False or empty.
        saved: config.json of the run to go on with.

    Raises:
        ValueError: a key is unknown, or a value is none.
    """
    file = options["config"]
    keys = read_config_file(file) if file is not None else {}
    columns = keys.pop("data", {})
    if "targets" in columns:
        if "target_metrics" in keys:
            raise ValueError(f"{file}: keep one of target_metrics and [data] targets")
        keys["target_metrics"] = columns["targets"]
    keys.update({key: options[key] for key in VALUES if options.get(key) is not None})
    keys.update({key: split_names(options[key]) for key in LISTS if options[key] is not None})
    keys.update({key: True for key in SWITCHES if options.get(key)})
    keys.update(parse_setting(pair) for pair in options["settings"])

    columns |= column_flags(options)
    for key in ("observed", "static"):
        if options[key] is not None:
            columns[key] = split_names(options[key])
    if options["step_seconds"] is not None:
        columns["step_seconds"] = options["step_seconds"]
    if options["bounds"]:
        columns["bounds"] = parse_bounds(options["bounds"])

    if saved is not None:
        keys = {**saved["train"], **keys}
        spec = {key: value for key, value in saved["data"]["spec"].items() if value is not None}
        columns = {**spec, **columns}
    elif "max_minutes" in keys:
        keys.setdefault("epochs", None)
    config = TrainConfig.from_dict(keys)
    return config, table_spec({**columns, "targets": config.target_metrics}, file)


def column_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the TableSpec fields that column flags set."""
    fields = ("timestamp", "server_name", "profile", "timezone", "strict")
    return {key: options[key] for key in fields if options[key] is not None}
