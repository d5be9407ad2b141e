-- What is going on in a lake, from its catalog alone. Run once per look; each table is read a fixed
-- number of times. Times are microseconds since 1970: DuckDB needs an extension for time zones.
-- `run_prefix` is set before: the first digits of a run_id, '' for every run. Runs that answered
-- questions are no runs over videos: their plans count no videos.

CREATE TABLE events AS
SELECT r.*, epoch_us(r.created_at) AS at_us
FROM raw.runs AS r
WHERE r.event IN ('planned', 'unit', 'shard', 'published', 'failed')
    AND starts_with(r.run_id, getvariable('run_prefix'))
    AND r.run_id NOT IN (
        SELECT run_id FROM raw.runs
        WHERE event = 'answered' OR (event = 'planned' AND num_videos IS NULL)
    );

CREATE TABLE units AS
SELECT *, at_us - CAST(coalesce(wall_s, 0) * 1e6 AS BIGINT) AS began_us
FROM events
WHERE event = 'unit';

-- How long a run was worked on: the union of its units' spans, so that pauses between attempts do
-- not count and shards side by side count once.
CREATE TABLE active AS
SELECT run_id, CAST(sum(greatest(0, at_us - greatest(began_us, coalesce(before_us, began_us)))) AS BIGINT) AS active_us
FROM (
    SELECT run_id, began_us, at_us, max(at_us) OVER (
        PARTITION BY run_id ORDER BY began_us, at_us ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS before_us
    FROM units
)
GROUP BY run_id;

-- A source is met once it has a row of its own, as a video or as a reject.
CREATE TABLE met AS
SELECT run_id, shard, count(DISTINCT source_id) AS num_met
FROM (
    SELECT run_id, shard, source_id FROM raw.videos
    WHERE starts_with(run_id, getvariable('run_prefix'))
    UNION ALL
    SELECT run_id, shard, source_id FROM raw.rejects
    WHERE adapter_key IS NULL AND starts_with(run_id, getvariable('run_prefix'))
)
GROUP BY run_id, shard;

CREATE VIEW seen_shards AS
SELECT
    e.run_id,
    e.shard,
    count(*) FILTER (e.event = 'unit') AS num_units,
    CAST(coalesce(sum(e.num_segments) FILTER (e.event = 'unit'), 0) AS BIGINT) AS num_segments,
    CAST(coalesce(sum(e.num_rejects) FILTER (e.event = 'unit'), 0) AS BIGINT) AS num_rejects,
    CAST(coalesce(any_value(m.num_met), 0) AS BIGINT) AS num_met,
    count(DISTINCT e.attempt_id) AS num_attempts,
    arg_max(e.attempt_id, e.at_us) AS attempt_id,
    arg_max(e.worker, e.at_us) AS worker,
    max(e.at_us) AS last_us,
    coalesce(sum(e.device_s) FILTER (e.event = 'unit'), 0) AS device_s,
    coalesce(sum(e.decode_s) FILTER (e.event = 'unit'), 0) AS decode_s,
    coalesce(sum(e.wall_s) FILTER (e.event = 'unit'), 0) AS wall_s,
    bool_or(e.event = 'shard') AS is_closed
FROM events AS e
LEFT JOIN met AS m ON m.run_id = e.run_id AND m.shard = e.shard
WHERE e.shard IS NOT NULL
GROUP BY e.run_id, e.shard;

CREATE VIEW seen_runs AS
SELECT
    e.run_id,
    max(e.recipe_id) AS recipe_id,
    arg_max(e.corpus, e.at_us) FILTER (e.event = 'planned') AS corpus,
    CASE
        WHEN bool_or(e.event = 'published') THEN 'published'
        WHEN bool_or(e.event = 'unit') THEN 'running'
        ELSE 'planned'
    END AS state,
    min(e.at_us) AS planned_us,
    max(e.at_us) FILTER (e.event = 'published') AS published_us,
    max(e.at_us) AS last_us,
    max(e.at_us) FILTER (e.event = 'failed') AS failed_us,
    arg_max(e.num_videos, e.at_us) FILTER (e.event = 'planned') AS num_planned_videos,
    CAST(coalesce((SELECT sum(m.num_met) FROM met AS m WHERE m.run_id = e.run_id), 0) AS BIGINT)
        AS num_met_videos,
    count(DISTINCT e.shard) FILTER (e.event = 'unit') AS num_shards_begun,
    count(*) FILTER (e.event = 'unit') AS num_units,
    CAST(coalesce(sum(e.num_segments) FILTER (e.event = 'unit'), 0) AS BIGINT) AS num_segments,
    CAST(coalesce(sum(e.num_adapters) FILTER (e.event = 'unit'), 0) AS BIGINT) AS num_adapters,
    CAST(coalesce(sum(e.num_rejects) FILTER (e.event = 'unit'), 0) AS BIGINT) AS num_rejects,
    coalesce(sum(e.covered_us) FILTER (e.event = 'unit'), 0) / 3.6e9 AS video_hours,
    coalesce(sum(e.device_s) FILTER (e.event = 'unit'), 0) AS device_s,
    coalesce(sum(e.decode_s) FILTER (e.event = 'unit'), 0) AS decode_s,
    coalesce(sum(e.wall_s) FILTER (e.event = 'unit'), 0) AS wall_s,
    coalesce(any_value(a.active_us), 0) / 1e6 AS active_s
FROM events AS e
LEFT JOIN active AS a ON a.run_id = e.run_id
GROUP BY e.run_id;

-- Of the lake what is still open; of a run what it met, also where a later run made it good.
CREATE TABLE shown_rejects AS
SELECT * FROM open_rejects WHERE getvariable('run_prefix') = ''
UNION ALL
SELECT * FROM rejects
WHERE getvariable('run_prefix') <> '' AND starts_with(run_id, getvariable('run_prefix'));

CREATE VIEW seen_rejects AS
SELECT
    reason,
    count(*) AS num_rejects,
    count(*) FILTER (is_terminal) AS num_terminal,
    arg_min(coalesce(uri, video_id), created_at) AS example,
    arg_min(detail, created_at) AS detail
FROM shown_rejects
GROUP BY reason;

CREATE VIEW seen_size AS
SELECT
    (SELECT count(DISTINCT video_id) FROM raw.videos) AS num_videos,
    count(*) AS num_adapters,
    CAST(coalesce(sum(size_bytes), 0) AS BIGINT) AS adapter_bytes
FROM (SELECT adapter_sha256, any_value(size_bytes) AS size_bytes FROM adapters GROUP BY adapter_sha256);

-- What the report shows of one run.
CREATE VIEW seen_videos AS
SELECT
    s.video_id,
    any_value(v.uri) AS uri,
    any_value(v.duration_us) AS duration_us,
    any_value(v.codec) AS codec,
    max(v.width_px) AS width_px,
    max(v.height_px) AS height_px,
    count(*) AS num_segments,
    coalesce(sum(s.decode_s), 0) AS decode_s
FROM raw.segments AS s
LEFT JOIN videos AS v ON v.video_id = s.video_id
WHERE starts_with(s.run_id, getvariable('run_prefix'))
    AND s.video_id NOT IN (SELECT video_id FROM deleted_videos)
GROUP BY s.video_id;

CREATE VIEW seen_lengths AS
SELECT
    outcome,
    count(*) AS num_segments,
    CAST(sum(end_us - start_us) AS BIGINT) AS total_us,
    min(end_us - start_us) AS least_us,
    CAST(median(end_us - start_us) AS BIGINT) AS median_us,
    max(end_us - start_us) AS most_us
FROM raw.segments
WHERE starts_with(run_id, getvariable('run_prefix'))
    AND video_id NOT IN (SELECT video_id FROM deleted_videos)
GROUP BY outcome;

CREATE VIEW seen_answers AS
SELECT
    a.answer_id, a.question, a.answer, a.reference, a.mode, a.strategy, a.question_type, a.video_id,
    a.parents, a.start_us, a.end_us, a.model_name, a.num_visual_tokens, epoch_us(a.created_at) AS at_us,
    v.uri, v.duration_us
FROM answers AS a
LEFT JOIN videos AS v ON v.video_id = a.video_id
WHERE starts_with(a.run_id, getvariable('run_prefix'));
