-- The views that analysts query; `raw.<table>` underneath holds every row as written.
-- Facts are write-once by key and state is rows in time: these views choose the row that counts.
-- Videos that were deleted (see tombstones) stay out of all of them.

CREATE VIEW deleted_videos AS
SELECT video_id, max(created_at) AS deleted_at
FROM raw.tombstones
GROUP BY video_id
HAVING arg_max(is_deleted, sequence);
COMMENT ON VIEW deleted_videos IS 'Videos whose last tombstone deletes them.';

CREATE VIEW adapters AS
SELECT a.*
FROM raw.adapters AS a
WHERE a.video_id NOT IN (SELECT video_id FROM deleted_videos);
COMMENT ON VIEW adapters IS 'Every adapter row; two runs at once may have made one key twice.';

CREATE VIEW adapters_latest AS
SELECT a.*
FROM adapters AS a
QUALIFY row_number() OVER (
    PARTITION BY adapter_key ORDER BY adapter_sha256, created_at, run_id
) = 1;
COMMENT ON VIEW adapters_latest IS 'One adapter per adapter_key: the one with the least adapter_sha256.';

CREATE VIEW sources AS
SELECT s.*
FROM raw.sources AS s
WHERE s.video_id IS NULL OR s.video_id NOT IN (SELECT video_id FROM deleted_videos)
QUALIFY row_number() OVER (PARTITION BY source_id ORDER BY created_at DESC, run_id) = 1;
COMMENT ON VIEW sources IS 'One row per URI: what was last found there.';

CREATE VIEW videos AS
SELECT v.*
FROM raw.videos AS v
WHERE v.video_id NOT IN (SELECT video_id FROM deleted_videos)
QUALIFY row_number() OVER (PARTITION BY video_id ORDER BY created_at DESC, run_id) = 1;
COMMENT ON VIEW videos IS 'One row per video: what was last found out about it.';

CREATE VIEW segments AS
SELECT s.*
FROM raw.segments AS s
WHERE s.video_id NOT IN (SELECT video_id FROM deleted_videos)
QUALIFY row_number() OVER (
    PARTITION BY adapter_key ORDER BY outcome = 'adapter' DESC, created_at DESC, run_id
) = 1;
COMMENT ON VIEW segments IS 'One row per segment and recipe; an adapter wins over a reject.';

CREATE VIEW rejects AS
SELECT r.*
FROM raw.rejects AS r
WHERE r.video_id IS NULL OR r.video_id NOT IN (SELECT video_id FROM deleted_videos);
COMMENT ON VIEW rejects IS 'Every reject of every attempt.';

CREATE VIEW open_rejects AS
SELECT r.*
FROM rejects AS r
WHERE r.question_id IS NULL
    AND CASE WHEN r.adapter_key IS NOT NULL
        THEN r.adapter_key NOT IN (SELECT adapter_key FROM raw.adapters)
        ELSE NOT EXISTS (
            SELECT 1
            FROM raw.videos AS v
            WHERE v.recipe_id = r.recipe_id
                AND v.created_at > r.created_at
                AND (v.source_id = r.source_id OR v.video_id = r.video_id)
        )
    END
QUALIFY row_number() OVER (
    PARTITION BY recipe_id, coalesce(adapter_key, source_id, video_id)
    ORDER BY created_at DESC, attempt DESC
) = 1;
COMMENT ON VIEW open_rejects IS 'Rejects with no later success, the last attempt of each.';

CREATE VIEW coverage AS
WITH planned AS (
    SELECT video_id, recipe_id, max(duration_us) AS duration_us, max(num_segments) AS num_segments
    FROM raw.videos
    WHERE video_id NOT IN (SELECT video_id FROM deleted_videos)
    GROUP BY video_id, recipe_id
),

adapted AS (
    SELECT video_id, recipe_id, count(*) AS num_adapters, sum(end_us - start_us) AS adapted_us
    FROM adapters_latest
    GROUP BY video_id, recipe_id
),

rejected AS (
    SELECT video_id, recipe_id, count(*) AS num_rejects, sum(end_us - start_us) AS rejected_us
    FROM open_rejects
    WHERE adapter_key IS NOT NULL
    GROUP BY video_id, recipe_id
)

SELECT
    p.video_id,
    p.recipe_id,
    p.duration_us,
    p.num_segments,
    coalesce(a.num_adapters, 0) AS num_adapters,
    coalesce(r.num_rejects, 0) AS num_rejects,
    CAST(coalesce(a.adapted_us, 0) AS BIGINT) AS adapted_us,
    CAST(coalesce(r.rejected_us, 0) AS BIGINT) AS rejected_us,
    CAST(p.duration_us - coalesce(a.adapted_us, 0) - coalesce(r.rejected_us, 0) AS BIGINT)
        AS missing_us
FROM planned AS p
LEFT JOIN adapted AS a ON a.video_id = p.video_id AND a.recipe_id = p.recipe_id
LEFT JOIN rejected AS r ON r.video_id = p.video_id AND r.recipe_id = p.recipe_id;
COMMENT ON VIEW coverage IS 'Per video and recipe: duration against adapters and rejects, in us; missing_us is 0 when they tile it.';

CREATE VIEW compositions AS
SELECT c.*
FROM raw.compositions AS c
WHERE NOT EXISTS (
    SELECT 1
    FROM (SELECT unnest(c.parents) AS adapter_sha256) AS p
    JOIN raw.adapters AS a ON a.adapter_sha256 = p.adapter_sha256
    WHERE a.video_id IN (SELECT video_id FROM deleted_videos)
)
AND (c.video_id IS NULL OR c.video_id NOT IN (SELECT video_id FROM deleted_videos));
COMMENT ON VIEW compositions IS 'Every composition none of whose parents was deleted.';

CREATE VIEW compositions_latest AS
SELECT c.*
FROM compositions AS c
WHERE c.video_id IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY video_id, recipe_id, method
    ORDER BY num_segments DESC, created_at DESC, composition_id
) = 1;
COMMENT ON VIEW compositions_latest IS 'Per video, recipe and method the composition that covers most segments.';

CREATE VIEW runs AS
SELECT r.* FROM raw.runs AS r;
COMMENT ON VIEW runs IS 'Every event of every run.';

CREATE VIEW recipes AS
SELECT
    recipe_id,
    max(recipe) AS recipe,
    min(created_at) AS first_used_at,
    max(created_at) AS last_used_at,
    count(DISTINCT run_id) AS num_runs,
    CAST(coalesce(sum(num_adapters) FILTER (event = 'unit'), 0) AS BIGINT) AS num_adapters
FROM raw.runs
WHERE event <> 'maintenance'
GROUP BY recipe_id;
COMMENT ON VIEW recipes IS 'Every recipe that was used, with its JSON text.';

CREATE VIEW cost_per_video_hour AS
SELECT
    recipe_id,
    run_id,
    min(created_at) AS started_at,
    sum(covered_us) / 3.6e9 AS video_hours,
    sum(device_s) / nullif(sum(covered_us) / 3.6e9, 0) AS device_s_per_video_hour,
    sum(decode_s) / nullif(sum(covered_us) / 3.6e9, 0) AS decode_s_per_video_hour,
    sum(wall_s) / nullif(sum(covered_us) / 3.6e9, 0) AS wall_s_per_video_hour,
    CAST(sum(num_segments) AS BIGINT) AS num_segments,
    CAST(sum(num_rejects) AS BIGINT) AS num_rejects
FROM raw.runs
WHERE event = 'unit'
GROUP BY recipe_id, run_id;
COMMENT ON VIEW cost_per_video_hour IS 'What a run spent per hour of video that it turned into adapters.';

CREATE VIEW answers AS
SELECT a.*
FROM raw.answers AS a
WHERE a.video_id IS NULL OR a.video_id NOT IN (SELECT video_id FROM deleted_videos);
COMMENT ON VIEW answers IS 'Every answered question.';

CREATE VIEW answers_latest AS
SELECT a.*
FROM answers AS a
QUALIFY row_number() OVER (PARTITION BY answer_id ORDER BY created_at DESC, run_id) = 1;
COMMENT ON VIEW answers_latest IS 'One row per answer_id: the last, where a question was asked again.';

CREATE VIEW question_rejects AS
SELECT r.*
FROM rejects AS r
WHERE r.question_id IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY run_id, question_id, mode ORDER BY attempt DESC, created_at DESC
) = 1;
COMMENT ON VIEW question_rejects IS 'Questions that a run could not answer, with the reason.';

CREATE VIEW evaluations AS
SELECT e.* FROM raw.evaluations AS e;
COMMENT ON VIEW evaluations IS 'Every measured figure.';
