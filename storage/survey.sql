-- What the catalog knows of the sources of a listing, under one recipe. Run once per plan: each table
-- is read a fixed number of times, whatever the listing's length. `listed` is the listing; the
-- variables recipe_id, is_retry, reasons, segment_us and min_tail_us are set before.

CREATE TABLE known AS
SELECT l.source_id, arg_max(s.video_id, s.created_at) AS video_id
FROM listed AS l
JOIN raw.sources AS s
    ON s.source_id = l.source_id
    AND s.size_bytes = l.size_bytes
    AND s.version_token = l.version_token
WHERE s.video_id IS NOT NULL
GROUP BY l.source_id;

CREATE TABLE met AS
SELECT
    v.video_id,
    arg_max(v.duration_us, v.created_at) AS any_duration_us,
    arg_max(v.duration_us, v.created_at) FILTER (v.recipe_id = getvariable('recipe_id')) AS duration_us,
    arg_max(v.num_segments, v.created_at) FILTER (v.recipe_id = getvariable('recipe_id')) AS num_segments
FROM raw.videos AS v
WHERE v.video_id IN (SELECT video_id FROM known)
GROUP BY v.video_id;

-- Only closed units count as done: see lookups.done_segments.
CREATE TABLE done AS
SELECT video_id, count(*) AS num_done, sum(end_us - start_us) AS done_us
FROM (
    SELECT DISTINCT s.video_id, s.start_us, s.end_us
    FROM raw.segments AS s
    SEMI JOIN (SELECT run_id, shard, unit FROM raw.runs WHERE event = 'unit') AS r
        ON r.run_id = s.run_id AND r.shard = s.shard AND r.unit = s.unit
    WHERE s.recipe_id = getvariable('recipe_id')
        AND s.is_done
        AND NOT (s.outcome = 'reject' AND list_contains(getvariable('reasons'), s.reason))
        AND s.video_id IN (SELECT video_id FROM met)
)
GROUP BY video_id;

CREATE TABLE uncomposed AS
SELECT m.video_id
FROM (
    SELECT video_id, count(DISTINCT adapter_key) AS num_adapters
    FROM raw.segments
    WHERE recipe_id = getvariable('recipe_id')
        AND outcome = 'adapter'
        AND video_id IN (SELECT video_id FROM met)
    GROUP BY video_id
) AS m
LEFT JOIN (
    SELECT video_id, max(num_segments) AS num_segments
    FROM raw.compositions
    WHERE recipe_id = getvariable('recipe_id')
    GROUP BY video_id
) AS c ON c.video_id = m.video_id
WHERE m.num_adapters > coalesce(c.num_segments, 0);

CREATE TABLE refused AS
SELECT
    l.source_id,
    coalesce(bool_or(r.is_terminal AND r.adapter_key IS NULL), false) AS is_rejected,
    coalesce(bool_or(NOT r.is_terminal), false) AS is_retriable
FROM listed AS l
JOIN raw.rejects AS r
    ON r.source_id = l.source_id
    AND r.size_bytes IS NOT DISTINCT FROM l.size_bytes
    AND r.version_token IS NOT DISTINCT FROM l.version_token
WHERE r.recipe_id = getvariable('recipe_id')
GROUP BY l.source_id;

-- As video2lora_core.segments.tile cuts; greatest() alone would make 1 of an unknown length.
CREATE MACRO num_planned(duration_us) AS CASE WHEN duration_us IS NOT NULL THEN greatest(
    1,
    duration_us // getvariable('segment_us')
    + CAST(
        duration_us % getvariable('segment_us') > 0
        AND duration_us % getvariable('segment_us') >= getvariable('min_tail_us') AS BIGINT
    )
) END;

CREATE TABLE rates AS
SELECT
    (SELECT sum(duration_us) / nullif(sum(size_bytes), 0) FROM videos) AS us_per_byte,
    (
        SELECT avg(size_bytes) FROM raw.adapters WHERE recipe_id = getvariable('recipe_id')
    ) AS adapter_bytes,
    sum(device_s) / nullif(sum(covered_us), 0) AS device_s_per_us,
    sum(decode_s) / nullif(sum(covered_us), 0) AS decode_s_per_us
FROM raw.runs
WHERE event = 'unit' AND recipe_id = getvariable('recipe_id') AND covered_us > 0;

-- One join at a time, and aggregates where they do: both spill well, several joins at once do not.
CREATE TABLE video_facts AS
SELECT
    video_id,
    max(any_duration_us) AS any_duration_us,
    max(duration_us) AS duration_us,
    max(num_segments) AS num_segments,
    max(num_done) AS num_done,
    max(done_us) AS done_us,
    coalesce(bool_or(is_uncomposed), false) AS is_uncomposed
FROM (
    SELECT * FROM met
    UNION ALL BY NAME SELECT * FROM done
    UNION ALL BY NAME SELECT video_id, true AS is_uncomposed FROM uncomposed
)
GROUP BY video_id;

CREATE TABLE facts AS
SELECT
    source_id,
    max(video_id) AS video_id,
    max(any_duration_us) AS any_duration_us,
    max(duration_us) AS duration_us,
    max(num_segments) AS num_segments,
    max(num_done) AS num_done,
    max(done_us) AS done_us,
    coalesce(bool_or(is_uncomposed), false) AS is_uncomposed,
    coalesce(bool_or(is_rejected), false) AS is_rejected,
    coalesce(bool_or(is_retriable), false) AS is_retriable
FROM (
    SELECT k.source_id, k.video_id, v.* EXCLUDE (video_id)
    FROM known AS k
    LEFT JOIN video_facts AS v ON v.video_id = k.video_id
    UNION ALL BY NAME SELECT * FROM refused
)
GROUP BY source_id;

CREATE TABLE surveyed AS
SELECT
    l.* EXCLUDE (duration_us),
    l.duration_us AS given_us,
    f.video_id,
    coalesce(f.duration_us, f.any_duration_us, l.duration_us) AS known_us,
    coalesce(known_us, CAST(l.size_bytes * rates.us_per_byte AS BIGINT)) AS likely_us,
    coalesce(f.num_segments, num_planned(likely_us)) AS num_segments,
    coalesce(f.num_done, 0) AS num_done,
    coalesce(f.done_us, 0) AS done_us,
    CASE
        WHEN f.video_id IN (SELECT video_id FROM deleted_videos) THEN 'deleted'
        WHEN getvariable('is_retry') THEN 'retry'
        WHEN f.is_rejected THEN 'rejected'
        WHEN
            f.duration_us = f.done_us AND f.num_segments = f.num_done AND NOT f.is_uncomposed
            THEN 'done'
        WHEN f.is_retriable THEN 'retry'
        ELSE 'new'
    END AS status
FROM listed AS l
CROSS JOIN rates
LEFT JOIN facts AS f ON f.source_id = l.source_id;
