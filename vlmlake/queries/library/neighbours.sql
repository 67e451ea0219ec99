-- Nearest neighbours of an example in a layer
-- Of every run the examples whose hidden state at one position of one layer is closest to that of the example asked about,
-- by cosine similarity, closest first. A question that is asked of an image several times is one neighbour, and lists
-- its splits. Of the array `readout_states` the one layer and position are read.
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: example example = null: its id; null: of each run the surest wrong answer, or the surest without labels
-- parameter: layer layer = null: one layer; null: the last of each run
-- parameter: position position = prompt_last: whose hidden state
-- parameter: rule rule = pope_official: label rule of the column `label`
-- parameter: limit count = 10: neighbours in each run
-- example: vlmlake query neighbours ./lake --param run=tiny-llava --param layer=block_2
WITH layers AS (
    SELECT unnest($layer, recursive := true)
), labelled AS (
    SELECT run, example, label FROM labels WHERE rule = $rule AND condition IS NULL
), chosen AS (
    SELECT run, example, image_sha256, question
    FROM examples JOIN answers USING (run, example) LEFT JOIN labelled USING (run, example)
    WHERE ($run IS NULL OR run = $run) AND ($example IS NULL OR example = $example)
    QUALIFY row_number() OVER (
        PARTITION BY run ORDER BY coalesce(label = 'wrong', false) DESC, first_log_prob DESC, example
    ) = 1
), pairs AS (
    SELECT run, min(example) AS example, image_sha256, question, string_agg(DISTINCT split, ', ' ORDER BY split) AS splits
    FROM examples
    GROUP BY run, image_sha256, question
), vectors AS MATERIALIZED (
    SELECT run, example, layer, vector::DOUBLE[] AS vector
    FROM readout_states
    WHERE run IN (SELECT run FROM layers)
        AND layer IN (SELECT layer FROM layers)
        AND position = $position
        AND example IN (SELECT example FROM pairs)
), states AS (
    SELECT run, example, layer, image_sha256, question, splits, vector
    FROM vectors JOIN layers USING (run, layer) JOIN pairs USING (run, example)
), near AS (
    SELECT
        run,
        layer,
        chosen.example AS asked,
        other.example,
        other.splits,
        list_cosine_similarity(own.vector, other.vector) AS similarity,
        other.image_sha256 = own.image_sha256 AS same_image,
        row_number() OVER (PARTITION BY run ORDER BY similarity DESC, other.example) AS rank
    FROM chosen
        JOIN states AS own USING (run, image_sha256, question)
        JOIN states AS other USING (run, layer)
    WHERE other.example <> own.example
)
SELECT
    run,
    layer,
    asked AS example,
    rank,
    example AS neighbour,
    splits,
    similarity,
    same_image,
    image,
    question,
    gold,
    answer,
    label
FROM near
    JOIN examples USING (run, example)
    JOIN answers USING (run, example)
    LEFT JOIN labelled USING (run, example)
WHERE rank <= $limit
ORDER BY run, rank
