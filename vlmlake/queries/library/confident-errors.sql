-- Wrong answers that the model is surest of
-- Of every run the greedy answers that are wrong under the rule, by the probability of their first token, largest first.
-- A question that is asked of an image several times is one row that lists its splits; unparsed answers are no errors.
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- parameter: split split = null: of questions that this split asks; null: of all
-- parameter: limit count = 10: rows of each run
-- example: vlmlake query confident-errors ./lake --param split=adversarial --param limit=20
SELECT
    run,
    min(example) AS example,
    string_agg(DISTINCT split, ', ' ORDER BY split) AS splits,
    min_by(image, example) AS image,
    question,
    min_by(gold, example) AS gold,
    min_by(answer, example) AS answer,
    exp(min_by(first_log_prob, example)) AS probability,
    min_by(first_gap, example) AS gap,
    min_by(first_entropy, example) AS entropy
FROM labels JOIN examples USING (run, example) JOIN answers USING (run, example)
WHERE label = 'wrong'
    AND ($run IS NULL OR run = $run)
    AND rule = $rule
    AND condition IS NOT DISTINCT FROM $condition
GROUP BY run, image_sha256, question
HAVING $split IS NULL OR bool_or(split = $split)
QUALIFY row_number() OVER (PARTITION BY run ORDER BY probability DESC, min(example)) <= $limit
ORDER BY run, probability DESC, min(example)
