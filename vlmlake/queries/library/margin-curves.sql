-- Logit-lens curves by layer, for right and wrong answers
-- Of every run and layer the mean of one number of the logit lens at the last prompt token, for examples whose greedy
-- answer is right, wrong and unparsed. A question that is asked of an image several times counts once.
-- needs: metrics of margins
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- parameter: metric margin_gold|margin_pred|yes_minus_no|image_effect|margin_gold_blank|rank_gold|lens_entropy|lens_log_prob_gold = margin_gold: which number
-- example: vlmlake query margin-curves ./lake --param metric=image_effect
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
WHERE analysis = 'margins'
    AND metric = $metric
    AND ($run IS NULL OR run = $run)
    AND condition IS NOT DISTINCT FROM $condition
GROUP BY run, layer
ORDER BY run, layer_number(layer)
