"""ML Metadata 1.17.1 cannot write a backslash to PostgreSQL: "syntax error at or near", or worse than an error.

It takes the quotes off what libpq's PQescapeLiteral gives, which for a string with a backslash begins with E as well,
and then puts its own around the rest. TFX's parameters are JSON inside JSON, full of backslashes. Here a character that
no text uses stands for them in the database; whoever reads through this module sees backslashes.
"""

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from tfx.orchestration import metadata

_BACKSLASH: Final = "\\"
# Of Unicode's private use area.
_STAND_IN: Final = "\ue05c"


class PostgresqlMetadata(metadata.Metadata):
    """TFX's handle, whose store replaces backslashes on the way in and puts them back on the way out."""

    def __enter__(self) -> "PostgresqlMetadata":
        super().__enter__()
        protect(self.store)
        return self


def protect(store: Any) -> None:
    """Wraps the one method through which every request of an `mlmd.MetadataStore` goes."""
    call = store._call

    def guarded(method_name: str, request: Any, response: Any, extra_options: Any = None) -> None:
        sent = type(request)()
        sent.CopyFrom(request)
        replace(sent, _BACKSLASH, _STAND_IN)
        call(method_name, sent, response, extra_options)
        replace(response, _STAND_IN, _BACKSLASH)

    store._call = guarded


def replace(message: Any, old: str, new: str) -> None:
    """In every string of a protocol buffer, at any depth."""
    if old.encode() not in message.SerializeToString():
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _replace_in_map(field, value, old, new)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                replace(inner, old, new)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            value[:] = [text.replace(old, new) for text in value]
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, value.replace(old, new))


def _replace_in_map(field: Any, value: Any, old: str, new: str) -> None:
    kind = field.message_type.fields_by_name["value"]
    for key in value:
        if kind.message_type is not None:
            replace(value[key], old, new)
        elif kind.type == FieldDescriptor.TYPE_STRING:
            value[key] = value[key].replace(old, new)
