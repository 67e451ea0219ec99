-- Where the probe and the model disagree
-- Examples of which one of two says `rather right` and the other `rather wrong`: the model, by the probability of its first
-- answer token, and the probe on its hidden states, by its calibrated out-of-fold probability that the answer is right;
-- of each run those that are farthest apart. A question that is asked of an image several times is one row that lists
-- its splits.
-- needs: metrics of probes
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule that the probe was trained under
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- parameter: position position = prompt_last: whose hidden states the probe reads
-- parameter: threshold number = 0.5: from which probability on either says `rather right`
-- parameter: limit count = 10: rows of each run
-- example: vlmlake query probe-disagreements ./lake --param run=tiny-llava --param limit=20
SELECT
    run,
    min(example) AS example,
    string_agg(DISTINCT split, ', ' ORDER BY split) AS splits,
    min_by(image, example) AS image,
    question,
    min_by(gold, example) AS gold,
    min_by(answer, example) AS answer,
    min_by(label, example) AS label,
    exp(min_by(first_log_prob, example)) AS probability,
    min_by(value, example) AS probe
FROM metrics
    JOIN labels USING (run, example, rule)
    JOIN examples USING (run, example)
    JOIN answers USING (run, example)
WHERE analysis = 'probes'
    AND metric = 'probe_nested'
    AND position = $position
    AND ($run IS NULL OR run = $run)
    AND rule = $rule
    AND metrics.condition IS NOT DISTINCT FROM $condition
    AND labels.condition IS NOT DISTINCT FROM $condition
GROUP BY run, image_sha256, question
HAVING (probability >= $threshold) <> (probe >= $threshold)
QUALIFY row_number() OVER (PARTITION BY run ORDER BY abs(probability - probe) DESC, min(example)) <= $limit
ORDER BY run, abs(probability - probe) DESC, min(example)
