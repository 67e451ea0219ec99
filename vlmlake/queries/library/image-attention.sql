-- Attention to the image by layer, for right and wrong answers
-- Of every run and layer the mean share of attention that goes to the image's tokens, over all heads, for examples whose
-- greedy answer is right, wrong and unparsed. A question that is asked of an image several times counts once.
-- needs: metrics of attention
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- parameter: position answer|prompt_last = answer: who looks: the answer's tokens, or the last of the prompt
-- example: vlmlake query image-attention ./lake --param position=prompt_last
WITH labelled AS (
    SELECT run, min(example) AS example, min_by(label, example) AS label
    FROM labels JOIN examples USING (run, example)
    WHERE rule = $rule AND condition IS NOT DISTINCT FROM $condition
    GROUP BY run, image_sha256, question
)
SELECT
    run,
    layer,
    avg(value) FILTER (label = 'right') AS mean_right,
    avg(value) FILTER (label = 'wrong') AS mean_wrong,
    avg(value) FILTER (label = 'unparsed') AS mean_unparsed,
    mean_right - mean_wrong AS difference,
    count(*) FILTER (label = 'right') AS n_right,
    count(*) FILTER (label = 'wrong') AS n_wrong,
    count(*) FILTER (label = 'unparsed') AS n_unparsed
FROM metrics JOIN labelled USING (run, example)
WHERE analysis = 'attention'
    AND metric = 'image_mass'
    AND position = $position
    AND ($run IS NULL OR run = $run)
    AND condition IS NOT DISTINCT FROM $condition
GROUP BY run, layer
ORDER BY run, layer_number(layer)
