-- Images on both sides of a split
-- Of every run and two of its splits how many images, by their content, and how many questions about the same image are in
-- both: what is learnt on the one and tested on the other is then not tested on anything new. Each image, and each
-- question of an image, counts once.
-- parameter: run run = null: one run, by name or by its model's short name; null: all
-- example: vlmlake query leakage ./lake
WITH asked AS (
    SELECT DISTINCT run, concat_ws('/', dataset, split) AS side, image_sha256, question
    FROM examples
    WHERE $run IS NULL OR run = $run
), sides AS (
    SELECT run, side, count(DISTINCT image_sha256) AS images, count(*) AS questions
    FROM asked
    GROUP BY run, side
), shared AS (
    SELECT
        a.run,
        a.side AS first,
        b.side AS second,
        count(DISTINCT a.image_sha256) AS images,
        count(*) FILTER (a.question = b.question) AS questions
    FROM asked AS a JOIN asked AS b ON a.run = b.run AND a.image_sha256 = b.image_sha256 AND a.side < b.side
    GROUP BY ALL
)
SELECT
    a.run,
    a.side AS first,
    b.side AS second,
    a.images AS first_images,
    b.images AS second_images,
    coalesce(shared.images, 0) AS shared_images,
    a.questions AS first_questions,
    b.questions AS second_questions,
    coalesce(shared.questions, 0) AS shared_questions
FROM sides AS a
    JOIN sides AS b ON a.run = b.run AND a.side < b.side
    LEFT JOIN shared ON shared.run = a.run AND shared.first = a.side AND shared.second = b.side
ORDER BY a.run, a.side, b.side
