-- Self-consistency of drawn answers as a confidence
-- Of every run and split, and of all splits together (`all`): the share of drawn answers that agree with the most frequent
-- one, on average over all, right and wrong greedy answers; how often all agree and how often the answer is right then;
-- its point-biserial correlation with correctness and its AUROC. A question that is asked of an image several times counts
-- once in each row; unparsed answers are counted, and left out of all else.
-- needs: metrics of consistency
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = pope_official: label rule
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- example: vlmlake query self-consistency ./lake
WITH asked AS (
    SELECT
        run,
        CASE grouping(split) WHEN 1 THEN 'all' ELSE split END AS split,
        min_by(label, example) AS label,
        min_by(value, example) AS agreement
    FROM metrics JOIN labels USING (run, example) JOIN examples USING (run, example)
    WHERE analysis = 'consistency'
        AND metric = 'self_consistency'
        AND ($run IS NULL OR run = $run)
        AND labels.rule = $rule
        AND metrics.condition IS NOT DISTINCT FROM $condition
        AND labels.condition IS NOT DISTINCT FROM $condition
    GROUP BY GROUPING SETS ((run, split, image_sha256, question), (run, image_sha256, question))
), ranked AS (
    SELECT
        run,
        split,
        label,
        agreement,
        (label = 'right')::INTEGER AS correct,
        label = 'unparsed' AS unparsed,
        -- Equal values share the mean of their ranks.
        rank() OVER (PARTITION BY run, split, unparsed ORDER BY agreement)
            + (count(*) OVER (PARTITION BY run, split, unparsed, agreement) - 1) / 2 AS place
    FROM asked
)
SELECT
    run,
    split,
    count(*) FILTER (NOT unparsed) AS n_parsed,
    count(*) FILTER (label = 'right') AS n_right,
    count(*) FILTER (label = 'wrong') AS n_wrong,
    count(*) FILTER (unparsed) AS n_unparsed,
    n_right / nullif(n_parsed, 0) AS accuracy,
    avg(agreement) FILTER (NOT unparsed) AS agreement,
    avg(agreement) FILTER (label = 'right') AS agreement_right,
    avg(agreement) FILTER (label = 'wrong') AS agreement_wrong,
    count(*) FILTER (NOT unparsed AND agreement = 1) / nullif(n_parsed, 0) AS unanimous,
    avg(correct) FILTER (NOT unparsed AND agreement = 1) AS accuracy_unanimous,
    CASE
        WHEN n_right * n_wrong > 0 AND max(agreement) FILTER (NOT unparsed) > min(agreement) FILTER (NOT unparsed)
        THEN corr(agreement, correct) FILTER (NOT unparsed)
    END AS correlation,
    (sum(place) FILTER (label = 'right') - n_right * (n_right + 1) / 2) / nullif(n_right * n_wrong, 0) AS auroc
FROM ranked
GROUP BY run, split
ORDER BY run, split <> 'all', split
