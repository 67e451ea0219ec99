-- Accuracy by split and label rule
-- Of every run, rule and split, and of all splits together (`all`), how many greedy answers are right, wrong and unparsed;
-- accuracy is the share of right ones among those that the rule can read. A question that is asked of an image several
-- times counts once in each row.
-- needs: labels
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- parameter: rule rule = null: one label rule; null: all that answers were labelled under
-- parameter: condition text = null: findings under that --where of analyze; null: those over all examples
-- example: vlmlake query accuracy ./lake --param run=tiny-llava
WITH asked AS (
    SELECT
        run,
        rule,
        CASE grouping(split) WHEN 1 THEN 'all' ELSE split END AS split,
        image_sha256,
        min_by(label, example) AS label
    FROM labels JOIN examples USING (run, example)
    WHERE ($run IS NULL OR run = $run)
        AND ($rule IS NULL OR rule = $rule)
        AND condition IS NOT DISTINCT FROM $condition
    GROUP BY GROUPING SETS ((run, rule, split, image_sha256, question), (run, rule, image_sha256, question))
)
SELECT
    run,
    rule,
    split,
    count(*) AS n,
    count(DISTINCT image_sha256) AS n_images,
    count(*) FILTER (label = 'right') AS n_right,
    count(*) FILTER (label = 'wrong') AS n_wrong,
    count(*) FILTER (label = 'unparsed') AS n_unparsed,
    n_right / nullif(n_right + n_wrong, 0) AS accuracy
FROM asked
GROUP BY run, rule, split
ORDER BY run, rule, split <> 'all', split
