-- Tokens that an example attends to most
-- Of every run the tokens that get most of the attention of one position of one example in one layer, by the share of one
-- head or the mean of all; of image tokens with their place on the image's grid. Shares are of all tokens: they are not
-- normalised again. Of the array `attention` the rows of this example and layer are read.
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: example example = null: its id; null: of each run the surest wrong answer, or the surest without labels
-- parameter: layer layer = null: one layer; null: the last of each run
-- parameter: head index = null: one head, from 0; null: the mean of all
-- parameter: position position = prompt_last: who looks
-- parameter: rule rule = pope_official: label rule by which the example is chosen
-- parameter: limit count = 10: tokens of each run
-- example: vlmlake query attended-tokens ./lake --param example=shapes_pope/adversarial/7 --param layer=block_2
WITH layers AS (
    SELECT unnest($layer, recursive := true)
), labelled AS (
    SELECT run, example, label FROM labels WHERE rule = $rule AND condition IS NULL
), chosen AS (
    SELECT run, example, question, answer
    FROM examples JOIN answers USING (run, example) LEFT JOIN labelled USING (run, example)
    WHERE ($run IS NULL OR run = $run) AND ($example IS NULL OR example = $example)
    QUALIFY row_number() OVER (
        PARTITION BY run ORDER BY coalesce(label = 'wrong', false) DESC, first_log_prob DESC, example
    ) = 1
), heads AS (
    SELECT run, example, layer, unnest(weights) AS share, generate_subscripts(weights, 1) - 1 AS token
    FROM attention
    WHERE run IN (SELECT run FROM layers)
        AND layer IN (SELECT layer FROM layers)
        AND example IN (SELECT example FROM chosen)
        AND position = $position
        AND ($head IS NULL OR head = $head)
), shares AS (
    SELECT run, example, layer, token, avg(share) AS share
    FROM heads JOIN layers USING (run, layer) JOIN chosen USING (run, example)
    GROUP BY run, example, layer, token
), texts AS (
    SELECT run, example, token, role, text, image_row, image_column
    FROM tokens
    WHERE run IN (SELECT run FROM layers) AND example IN (SELECT example FROM chosen)
)
SELECT
    run,
    example,
    layer,
    row_number() OVER (PARTITION BY run ORDER BY share DESC, token) AS rank,
    token,
    role,
    text,
    image_row,
    image_column,
    share
FROM shares JOIN texts USING (run, example, token)
QUALIFY rank <= $limit
ORDER BY run, rank
