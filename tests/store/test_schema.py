"""Making the schema at once and migrating to it end in the same database."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from lightkeeper.domain.errors import Conflict
from lightkeeper.store import schema
from lightkeeper.store.schema import migrate, migrate_stepwise

CATALOGUE = {
    "columns": """
        SELECT table_name, column_name, column_default, is_nullable, data_type, udt_name, identity_generation
          FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'migration' ORDER BY 1, 2""",
    "indexes": """
        SELECT indexname, indexdef FROM pg_indexes
         WHERE schemaname = 'public' AND tablename <> 'migration' ORDER BY 1""",
    "constraints": """
        SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'migration' ORDER BY 1, 2""",
    "enums": """
        SELECT t.typname, array_agg(e.enumlabel ORDER BY e.enumsortorder)
          FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid GROUP BY 1 ORDER BY 1""",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "options": """
        SELECT relname, reloptions FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relname <> 'migration' AND reloptions IS NOT NULL
         ORDER BY 1""",
}


def test_migrating_equals_creating(server: str, sql: Callable[..., Any]):
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("CREATE DATABASE lk_migrated")
    with psycopg.connect(server, dbname="lk_migrated") as conn:
        migrate_stepwise(conn)
        for what, query in CATALOGUE.items():
            assert conn.execute(query).fetchall() == sql(query), f"{what} differ: mend schema.sql or the last migration"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("DROP DATABASE lk_migrated")


def test_migrating_twice_does_nothing(database_url: str):
    assert migrate(database_url) == []


def test_a_database_of_a_newer_version_is_left_alone(database_url: str, sql: Callable[..., Any]):
    sql("INSERT INTO migration (name, sha256) VALUES ('9999_future.sql', 'x')")
    with pytest.raises(Conflict, match="9999_future"):
        migrate(database_url)


def test_a_migration_that_was_edited_after_it_was_applied_is_refused(database_url: str, sql: Callable[..., Any]):
    sql("UPDATE migration SET sha256 = 'edited'")
    with pytest.raises(Conflict, match="not the one that was applied"):
        migrate(database_url)


def test_every_table_is_explained_where_it_is_made():
    text = (files(schema) / "schema.sql").read_text()
    for block in text.split("\n\n"):
        if "CREATE TABLE" in block:
            assert "--" in block, f"no word of explanation for {block.splitlines()[0]}"
