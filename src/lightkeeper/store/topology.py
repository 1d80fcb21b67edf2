"""Sites, storages, links, policies, metadata keys: what `lightkeeper apply` writes."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.catalog import (
    KeyLevel,
    KeyType,
    Media,
    MetaKey,
    SiteKind,
    StorageElement,
    StorageProtocol,
    Vocabulary,
    in_use,
)
from lightkeeper.domain.policy import Members, Policy
from lightkeeper.domain.states import Health
from lightkeeper.domain.transferring import LinkLimit
from lightkeeper.store.db import rows, value, values


@dataclass(frozen=True, slots=True)
class Site:
    """A place with storage and perhaps computing. Coordinates in degrees."""

    site_id: int
    name: str
    kind: SiteKind
    country: str
    latitude: float | None
    longitude: float | None
    executor: str | None
    pilots: int
    processors: int
    memory_mb: int | None
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Link:
    """Way from one site to another with its limits; rate in bytes per second."""

    source: str
    target: str
    max_transfers: int
    max_rate: int | None


# --- reading ---------------------------------------------------------------------------------------------------
def sites(conn: Connection) -> list[Site]:
    """Every site by name."""
    found = conn.execute("""
        SELECT site_id, name, kind::text, country, latitude, longitude, executor, pilots, processors, memory_mb, tags
          FROM site
         ORDER BY name
    """).fetchall()
    return [Site(i, name, SiteKind(kind), *rest) for i, name, kind, *rest in found]


def storages(conn: Connection) -> list[StorageElement]:
    """Every storage element by id, as it may be used now."""
    found = conn.execute("""
        SELECT s.storage_id, s.name, site.name, site.kind::text, s.media::text, s.driver, s.root, s.ingest, s.enabled,
               site.country, site.latitude, site.longitude, s.attributes, s.max_transfers, s.max_rate,
               n.may_read, n.may_write, n.may_delete, n.draining, s.quota,
               (coalesce(c.n_bytes, 0) + coalesce(q.n_bytes, 0))::bigint, n.health::text,
               ARRAY(SELECT json_build_array(p.rank, p.driver, p.root, coalesce(o.answers, true))::text
                       FROM (SELECT 0::smallint AS rank, s.driver, s.root
                             UNION ALL
                             SELECT rank, driver, root FROM storage_protocol WHERE storage_id = s.storage_id) p
                       LEFT JOIN probe o ON o.storage_id = s.storage_id AND o.rank = p.rank
                      ORDER BY p.rank)
          FROM storage s
          JOIN storage_now n USING (storage_id)
          JOIN site ON site.site_id = s.site_id
          LEFT JOIN storage_count c USING (storage_id)
          LEFT JOIN storage_queue q USING (storage_id)
         ORDER BY s.storage_id
    """).fetchall()
    return [_storage(*line) for line in found]


def _storage(
    storage_id: int,
    name: str,
    site: str,
    kind: str,
    media: str,
    driver: str,
    root: str,
    *rest: Any,
) -> StorageElement:
    *between, health, ways = rest
    protocols = tuple(StorageProtocol(*json.loads(way)) for way in ways)
    return StorageElement(
        storage_id,
        name,
        site,
        SiteKind(kind),
        Media(media),
        driver,
        root,
        *between,
        health=Health(health),
        protocols=protocols,
    ).by(in_use(protocols))


def hold_room(conn: Connection) -> None:
    """Until this transaction ends nobody else plans copies by what room is left, where there is a quota to keep."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('room')) FROM storage WHERE quota IS NOT NULL LIMIT 1")


@dataclass(frozen=True, slots=True)
class Declared:
    """What the topology document says of a storage's use, whatever was switched by hand or found since."""

    storage_id: int
    driver: str
    root: str
    read: bool
    write: bool
    delete: bool
    draining: bool
    retired: datetime | None


def declared(conn: Connection) -> dict[int, Declared]:
    """What the topology says of each storage's use, by id."""
    found = rows(
        conn,
        Declared,
        """
        SELECT storage_id, driver, root, can_read AS read, can_write AS write, can_delete AS delete, draining, retired
          FROM storage
        """,
    )
    return {one.storage_id: one for one in found}


def links(conn: Connection) -> list[Link]:
    """Every link by its ends."""
    return rows(
        conn,
        Link,
        """
        SELECT s.name AS source, t.name AS target, max_transfers, max_rate
          FROM link
          JOIN site s ON s.site_id = source_id
          JOIN site t ON t.site_id = target_id
         ORDER BY s.name, t.name
        """,
    )


def link_limits(conn: Connection) -> dict[tuple[str, str], LinkLimit]:
    """What each link carries, by the sites at its ends."""
    return {(link.source, link.target): LinkLimit(link.max_transfers, link.max_rate) for link in links(conn)}


def shares(conn: Connection) -> dict[str, float]:
    """The share of each activity."""
    return dict(conn.execute("SELECT activity, share FROM activity_share").fetchall())


def policies(conn: Connection) -> list[Policy]:
    """Every policy by name, which is the order in which the copies they ask for are planned."""
    found = conn.execute("""
        SELECT policy_id, name, query, copies, media::text, free_on_site, min_age, priority, at, min_distance,
               expires, remove_after, source, activity, retention, protected, quota, deadline, created, withdrawn,
               0 AS used, temporary
          FROM policy
         ORDER BY name
    """).fetchall()
    return [Policy(i, name, query, copies, Media(media), *rest) for i, name, query, copies, media, *rest in found]


def temporary_scopes(conn: Connection, among: Collection[str]) -> set[str]:
    """Those of these scopes that hold temporary products."""
    return set(
        values(
            conn,
            """
            SELECT name
              FROM unnest(%(among)s::text[]) AS w (name)
             WHERE EXISTS (SELECT FROM policy p
                            WHERE p.temporary AND p.withdrawn IS NULL AND w.name LIKE ANY (p.scopes))
            """,
            among=list(among),
        )
    )


def vocabulary(conn: Connection) -> Vocabulary:
    """The registered metadata keys."""
    found = conn.execute(
        "SELECT name, type::text, level::text, unit, description FROM meta_key ORDER BY name"
    ).fetchall()
    return Vocabulary(
        [MetaKey(name, KeyType(type_), KeyLevel(level), unit, text) for name, type_, level, unit, text in found]
    )


# --- writing ---------------------------------------------------------------------------------------------------
def put_site(
    conn: Connection,
    name: str,
    kind: SiteKind,
    country: str,
    latitude: float | None,
    longitude: float | None,
    executor: str | None,
    pilots: int,
    processors: int,
    memory_mb: int | None,
    tags: Sequence[str],
) -> None:
    """Make the site so."""
    conn.execute(
        """
        INSERT INTO site (name, kind, country, latitude, longitude, executor, pilots, processors, memory_mb, tags)
        VALUES (%(name)s, %(kind)s, %(country)s, %(latitude)s, %(longitude)s, %(executor)s, %(pilots)s, %(processors)s,
                %(memory_mb)s, %(tags)s)
        ON CONFLICT (name) DO UPDATE
           SET kind = excluded.kind, country = excluded.country, latitude = excluded.latitude,
               longitude = excluded.longitude, executor = excluded.executor, pilots = excluded.pilots,
               processors = excluded.processors, memory_mb = excluded.memory_mb, tags = excluded.tags
        """,
        {
            "name": name,
            "kind": str(kind),
            "country": country,
            "latitude": latitude,
            "longitude": longitude,
            "executor": executor,
            "pilots": pilots,
            "processors": processors,
            "memory_mb": memory_mb,
            "tags": list(tags),
        },
    )


def put_storage(conn: Connection, storage: StorageElement) -> None:
    """Make the storage so; its id does not matter. Its root is where its replicas lie: see `holds_replicas` before
    changing it."""
    conn.execute(
        """
        WITH written AS (
            INSERT INTO storage AS s (name, site_id, media, driver, root, ingest, enabled, attributes, can_read,
                                      can_write, can_delete, draining, quota)
            SELECT %(name)s, site_id, %(media)s::media, %(driver)s, %(root)s, %(ingest)s, %(enabled)s, %(attributes)s,
                   %(read)s, %(write)s, %(delete)s, %(draining)s, %(quota)s
              FROM site WHERE name = %(site)s
            ON CONFLICT (name) DO UPDATE
               SET site_id = excluded.site_id, media = excluded.media, driver = excluded.driver, root = excluded.root,
                   ingest = excluded.ingest, enabled = excluded.enabled, attributes = excluded.attributes,
                   can_read = excluded.can_read, can_write = excluded.can_write, can_delete = excluded.can_delete,
                   draining = excluded.draining, quota = excluded.quota
            RETURNING s.storage_id)
        INSERT INTO health (health_id) SELECT storage_id FROM written ON CONFLICT DO NOTHING
        """,
        {
            "name": storage.name,
            "site": storage.site,
            "media": str(storage.media),
            "driver": storage.driver,
            "root": storage.root,
            "ingest": storage.ingest,
            "enabled": storage.enabled,
            "attributes": Jsonb(dict(storage.attributes)),
            "read": storage.read,
            "write": storage.write,
            "delete": storage.delete,
            "draining": storage.draining,
            "quota": storage.quota,
        },
    )


def put_protocols(conn: Connection, name: str, protocols: Sequence[StorageProtocol]) -> None:
    """Make these the ways to speak to a storage besides its own driver and root. What was known of those that change is
    forgotten."""
    params = {
        "name": name,
        "ranks": [p.rank for p in protocols],
        "drivers": [p.driver for p in protocols],
        "roots": [p.root for p in protocols],
    }
    conn.execute(
        """
        DELETE FROM storage_protocol p USING storage s
         WHERE p.storage_id = s.storage_id AND s.name = %(name)s
        """,
        params,
    )
    conn.execute(
        """
        INSERT INTO storage_protocol (storage_id, rank, driver, root)
        SELECT s.storage_id, w.*
          FROM storage s, unnest(%(ranks)s::smallint[], %(drivers)s::text[], %(roots)s::text[]) AS w
         WHERE s.name = %(name)s
        """,
        params,
    )
    conn.execute(
        "DELETE FROM probe USING storage s WHERE probe.storage_id = s.storage_id AND s.name = %(name)s", params
    )


def put_link(conn: Connection, source: str, target: str, max_transfers: int, max_rate: int | None) -> None:
    """Make the link so."""
    conn.execute(
        """
        INSERT INTO link (source_id, target_id, max_transfers, max_rate)
        SELECT s.site_id, t.site_id, %(max_transfers)s, %(max_rate)s
          FROM site s, site t
         WHERE s.name = %(source)s AND t.name = %(target)s
        ON CONFLICT (source_id, target_id) DO UPDATE
           SET max_transfers = excluded.max_transfers, max_rate = excluded.max_rate
        """,
        {"source": source, "target": target, "max_transfers": max_transfers, "max_rate": max_rate},
    )


def put_limits(conn: Connection, storage: str, max_transfers: int, max_rate: int | None) -> None:
    """So many streams, and bytes per second, go from and to a storage at once."""
    conn.execute(
        "UPDATE storage SET max_transfers = %s, max_rate = %s WHERE name = %s", (max_transfers, max_rate, storage)
    )


def put_shares(conn: Connection, wanted: Mapping[str, float]) -> None:
    """Make the shares of these activities so."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO activity_share (activity, share) VALUES (%s, %s)
            ON CONFLICT (activity) DO UPDATE SET share = excluded.share
            """,
            list(wanted.items()),
        )


def put_policy(conn: Connection, policy: Policy, members: Members) -> int:
    """Make the policy of this name so; its id. `assign_policies` or `rules.assign` afterwards. When it frees or removes
    more than before, that is a promise for files that come from now on."""
    return value(
        conn,
        """
        INSERT INTO policy (name, query, set_query, file_query, scopes, copies, media, free_on_site, min_age, priority,
                            at, min_distance, expires, remove_after, source, activity, retention, protected, quota,
                            deadline, temporary)
        VALUES (%(name)s, %(query)s, %(set_query)s::jsonpath, %(file_query)s::jsonpath, %(scopes)s, %(copies)s,
                %(media)s, %(free)s, %(min_age)s, %(priority)s, %(at)s, %(min_distance)s, %(expires)s,
                %(remove_after)s, %(source)s, %(activity)s, %(retention)s, %(protected)s, %(quota)s, %(deadline)s,
                %(temporary)s)
        ON CONFLICT (name) DO UPDATE
           SET query = excluded.query, set_query = excluded.set_query, file_query = excluded.file_query,
               scopes = excluded.scopes, copies = excluded.copies, media = excluded.media,
               free_on_site = excluded.free_on_site, min_age = excluded.min_age, priority = excluded.priority,
               at = excluded.at, min_distance = excluded.min_distance, expires = excluded.expires,
               source = excluded.source, activity = excluded.activity, retention = excluded.retention,
               protected = excluded.protected, quota = excluded.quota, deadline = excluded.deadline,
               temporary = excluded.temporary,
               remove_after = excluded.remove_after,
               promised = CASE WHEN (policy.query, policy.copies, policy.media, policy.at, policy.free_on_site,
                                     policy.min_age, policy.remove_after)
                                    IS DISTINCT FROM
                                    (excluded.query, excluded.copies, excluded.media, excluded.at,
                                     excluded.free_on_site, excluded.min_age, excluded.remove_after)
                               THEN now() ELSE policy.promised END
        RETURNING policy_id
        """,
        name=policy.name,
        query=Jsonb(dict(policy.query)),
        set_query=members.set_query,
        file_query=members.file_query,
        scopes=None if members.scopes is None else list(members.scopes),
        copies=policy.copies,
        media=str(policy.media),
        free=policy.free_on_site,
        min_age=policy.min_age,
        priority=policy.priority,
        at=policy.at,
        min_distance=policy.min_distance,
        expires=policy.expires,
        remove_after=policy.remove_after,
        source=policy.source,
        activity=policy.activity,
        retention=policy.retention,
        protected=policy.protected,
        quota=policy.quota,
        deadline=policy.deadline,
        temporary=policy.temporary,
    )


def assign_policies(conn: Connection) -> int:
    """Find again which policies each metadata set falls under, and have every file of the sets that changed, or whose
    policy may have changed, compared with what it is owed. Returns the number of those files."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")
    conn.execute("DELETE FROM set_policy")
    conn.execute("""
        INSERT INTO set_policy (set_id, policy_id)
        SELECT s.set_id, p.policy_id
          FROM meta_set s
          JOIN policy p ON s.meta @@ p.set_query
         WHERE s.state <> 'Removed'
    """)
    return conn.execute("""
        INSERT INTO unsettled (file_id)
        SELECT file_id FROM file WHERE set_id IN (SELECT set_id FROM set_policy)
         UNION
        SELECT file_id FROM file_policy
         UNION
        SELECT file_id FROM replica JOIN storage_now USING (storage_id) WHERE draining -- also what nothing is owed
         ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
    """).rowcount


def put_keys(conn: Connection, keys: Sequence[MetaKey]) -> int:
    """Register the observatory's metadata keys; what is known stays as it is. Returns how many are new."""
    roles = {key.role: key.name for key in keys if key.role}
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO night_key (role, name) VALUES (%s, %s)
            ON CONFLICT (role) DO UPDATE SET name = excluded.name WHERE night_key.name <> excluded.name
            """,
            [(str(role), name) for role, name in roles.items()],
        )
        cursor.executemany(
            """
            INSERT INTO meta_key (name, type, level, unit, description) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (name) DO NOTHING
            """,
            [(key.name, str(key.type), str(key.level), key.unit, key.description) for key in keys],
        )
        return cursor.rowcount


def holds_replicas(conn: Connection, storage_id: int) -> bool:
    """Whether any replica is recorded on the storage."""
    return conn.execute("SELECT FROM replica WHERE storage_id = %s LIMIT 1", (storage_id,)).fetchone() is not None
