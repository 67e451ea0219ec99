-- What interventions cost, by condition
-- Of every run and intervention the drop of accuracy under each condition, in percentage points, with its 95 % interval and
-- McNemar's p-value, largest first; of masks the contrast with random ones too. Answers that the rule cannot read count as
-- not right, each question of an image counts once, and the note says what else there is to know.
-- needs: results of causal
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- parameter: split split = all: one split, or all of them together
-- parameter: gold text = null: of examples with that gold answer; null: of all
-- example: vlmlake query drops ./lake --param gold=yes
SELECT
    r.run,
    r.intervention,
    r.metric AS changed,
    r.statistic,
    r.position AS positions,
    r.layer,
    r.head,
    r.at AS size,
    100 * r.value AS points,
    100 * r.low AS low,
    100 * r.high AS high,
    r.p_value,
    r.p_holm,
    r.n,
    r.n_images,
    r.note
FROM results AS r
WHERE r.analysis = 'causal'
    AND r.statistic IN ('drop', 'contrast')
    AND ($run IS NULL OR r.run = $run)
    AND r.rule = $rule
    AND r.condition IS NOT DISTINCT FROM $condition
    AND r.split = $split
    AND r.gold IS NOT DISTINCT FROM $gold
ORDER BY r.run, r.intervention, r.statistic DESC, points DESC NULLS LAST, changed, size
