"""The columns of an opportunity, for those contenders whose author writes a schema down."""

import pyarrow as pa

TEXT, FLAG, TIME = pa.string(), pa.bool_(), pa.timestamp("ms", tz="UTC")
TEXTS = pa.list_(TEXT)
CONSENT = pa.struct([("allowed", FLAG), ("expiresAt", TIME)])

OPPORTUNITY = pa.schema(
    [
        ("id", TEXT),
        ("name", TEXT),
        ("headline", TEXT),
        ("contact", TEXT),
        ("stage", TEXT),
        ("stageChanges", pa.list_(pa.struct([("toStageId", TEXT), ("toStageIndex", pa.int64()), ("updatedAt", TIME), ("userId", TEXT)]))),
        ("confidentiality", TEXT),
        ("location", TEXT),
        ("opportunityLocation", TEXT),
        ("phones", pa.list_(pa.struct([("type", TEXT), ("value", TEXT)]))),
        ("emails", TEXTS),
        ("links", TEXTS),
        ("archived", pa.struct([("archivedAt", TIME), ("reason", TEXT)])),
        ("tags", TEXTS),
        ("sources", TEXTS),
        ("origin", TEXT),
        ("sourcedBy", TEXT),
        ("owner", TEXT),
        ("followers", TEXTS),
        ("applications", TEXTS),
        ("createdAt", TIME),
        ("updatedAt", TIME),
        ("lastInteractionAt", TIME),
        ("lastAdvancedAt", TIME),
        ("snoozedUntil", TIME),
        ("urls", pa.struct([("list", TEXT), ("show", TEXT)])),
        ("dataProtection", pa.struct([("store", CONSENT), ("contact", CONSENT)])),
        ("isAnonymized", FLAG),
    ]
)
