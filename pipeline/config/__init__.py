"""Typed run configuration: composition of layers, strict validation, help, fingerprint."""

from pipeline.config.compose import compose
from pipeline.config.data_keys import DataConfig
from pipeline.config.help import describe
from pipeline.config.keys import ConfigError, HelpRequested, flatten
from pipeline.config.layer_check import unknown_words
from pipeline.config.layers import layer_file, pairs_table, parts_of, read_yaml
from pipeline.config.network_keys import StudentConfig, TeacherConfig
from pipeline.config.schema import (
    EvaluateConfig,
    ExportConfig,
    LogConfig,
    OptimConfig,
    OutputConfig,
    RuntimeConfig,
    TrainConfig,
)
from pipeline.config.validation import FREE_FORM, validate, validate_arguments
from pipeline.config.words import spelled

__all__ = [
    "FREE_FORM",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "HelpRequested",
    "LogConfig",
    "OptimConfig",
    "OutputConfig",
    "RuntimeConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "compose",
    "describe",
    "flatten",
    "layer_file",
    "pairs_table",
    "parts_of",
    "read_yaml",
    "spelled",
    "unknown_words",
    "validate",
    "validate_arguments",
]
