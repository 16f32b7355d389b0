"""The Prefect UI as a person sees it: the app deployed, a run started by hand, interrupted twice, and looked at.

The tests are one visit, in its order. What they look for has the roles, labels and words that a person goes by.
"""

import json
import re
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from playwright.sync_api import Locator, Page, expect
from ui_album import Album, colours
from ui_browser import Visit

from embedded.deployed import DeployedApp, wait_for

pytestmark = [pytest.mark.ui, pytest.mark.timeout(400)]

CPU, MEMORY_MIB = 1024, 3072  # of one run only; the pool's own default is smaller
SIZE = (str(CPU), str(MEMORY_MIB))
RUN = "nightly"
SECONDS_PER_MONTH = 0.8
KILL_AFTER_TASKS = (5, 11)
ARTIFACTS = {"flights-late-by-carrier": "table", "flights-late-by-hour": "markdown"}
# The UI loads a library for analytics, which asks its maker for settings even where the server turned analytics off.
# It gets no answer, no page misses it, and nothing is ever reported.
ANALYTICS_SETTINGS = "sr-client-cfg.amplitude.com"


@pytest.fixture(scope="module")
def page(visit: Visit) -> Page:
    return visit.page


@pytest.fixture(scope="module")
def completed(app: DeployedApp) -> UUID:
    """The run that was started by hand, twice interrupted without notice, and completed since."""
    (run,) = [run for run in app.prefect.read_flow_runs() if run.name == RUN]
    for attempt, tasks in enumerate(KILL_AFTER_TASKS, start=1):
        app.interrupt_attempt(run.id, attempt, when=lambda done, tasks=tasks: len(done) >= tasks, notice=False)
    assert app.wait_for_final_state(run.id).state_name == "Completed"
    return run.id


def go_to(page: Page, *names: str) -> None:
    """Click through the navigation, and on from page to page."""
    section, *links = names
    page.get_by_role("link", name=section, exact=True).first.click()
    for name in links:
        page.get_by_role("main").get_by_role("link", name=name, exact=True).first.click()


def open_tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel", name=name, exact=True)


def open_artifact(page: Page, key: str) -> Locator:
    """Click on an artifact's card, and on the newest of what has its key: this run's."""
    main = page.get_by_role("main")
    main.get_by_role("link").filter(has_text=key).click()
    main.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.get_by_role("complementary").get_by_role("link", name=RUN, exact=True)).to_be_visible()
    return page.get_by_role("tabpanel", name="Artifact", exact=True)


def fact(page: Page, term: str) -> Locator:
    """What the page says beside a term."""
    return page.get_by_role("term").filter(has_text=re.compile(f"^{term}$")).locator("xpath=following-sibling::dd[1]")


def test_sign_in_with_the_auth_string_only(page: Page, app: DeployedApp) -> None:
    password, sign_in = page.locator("input[type=password]"), page.get_by_role("button", name="Login")
    password.fill("admin:not-the-one")
    sign_in.click()
    expect(page.get_by_text("Invalid credentials")).to_be_visible()
    password.fill(app.server.auth_string or "")
    sign_in.click()
    expect(page.get_by_text("Active Work Pools")).to_be_visible()
    expect(page.get_by_role("button", name="Logout")).to_be_visible()
    expect(page.get_by_text("Upgrade")).to_have_count(0)  # the embedded server advertises nothing


def test_worker_is_online(page: Page, app: DeployedApp, album: Album) -> None:
    outputs = app.outputs()
    go_to(page, "Work Pools", outputs["WorkPoolName"])
    workers = open_tab(page, "Workers")
    row = workers.get_by_role("row").filter(has_text="ECSWorker")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Online")
    expect(fact(page, "Status")).to_have_text("Ready")
    expect(fact(page, "Type")).to_have_text("Ecs")
    expect(fact(page, "Description")).to_contain_text("SPOT_WITH_FALLBACK")
    album.add(
        "worker", page, page.get_by_role("navigation", name="breadcrumb"), workers, fact(page, "Concurrency Limit")
    )


def test_form_of_a_run_asks_for_what_the_flow_declares(page: Page, app: DeployedApp) -> None:
    go_to(page, "Deployments", "flights")
    parameters = open_tab(page, "Parameters")
    for name in ("output", "months", "origins", "seconds_per_month"):
        expect(parameters.get_by_role("cell", name=name, exact=True)).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_label("output")).to_have_value(f"s3://{app.outputs()['BucketName']}/data/flights")
    expect(page.get_by_text("Pretend that the source needs this long for a month.")).to_be_visible()
    seconds = page.get_by_label("seconds_per_month")
    seconds.fill("601")
    assert not seconds.evaluate("field => field.checkValidity()"), "the form takes more than the flow's 600 seconds"
    seconds.fill(str(SECONDS_PER_MONTH))
    assert seconds.evaluate("field => field.checkValidity()")


def test_run_started_by_hand_has_a_size_of_its_own(page: Page, app: DeployedApp, album: Album) -> None:
    page.get_by_label("Run Name").fill(RUN)
    page.get_by_role("button", name="Additional Options").click()
    options = page.get_by_role("region", name="Additional Options")
    label = options.get_by_text("Job Variables (Optional)")
    # It has no name that assistive technology could say. It begins with what the deployment says.
    editor = options.get_by_role("textbox").and_(options.locator("[contenteditable=true]"))
    expect(editor).to_contain_text("EXTRA_PIP_PACKAGES")
    text = json.dumps({"cpu": CPU, "memory": MEMORY_MIB, **json.loads(editor.inner_text())})
    # By keyboard: it is a CodeMirror, which takes what is written into the page over only when it looks next.
    editor.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(text)
    expect(editor).to_have_text(text)
    label.click()  # leave the editor: the form looks at what it holds
    submit = page.get_by_role("button", name="Submit")
    submit.scroll_into_view_if_needed()
    album.add("custom-run", page, options.get_by_text("Tags (Optional)"), label, editor, submit)
    submit.click()
    expect(page.get_by_text(f"{RUN} scheduled to start now")).to_be_visible()

    (run,) = [run for run in app.prefect.read_flow_runs() if run.name == RUN]
    described = app.describe_task(app.wait_for_attempt(run.id))
    assert (described["cpu"], described["memory"]) == SIZE


def test_interrupted_run_is_completed_in_three_attempts(
    page: Page, app: DeployedApp, completed: UUID, album: Album
) -> None:
    go_to(page, "Runs", RUN)
    main = page.get_by_role("main")
    heading = page.get_by_role("navigation", name="breadcrumb").first
    expect(heading).to_contain_text(RUN)
    expect(heading).to_contain_text("on-demand-fallback")
    expect(main.get_by_text("Completed", exact=True).first).to_be_visible()
    graph = main.locator("canvas").first
    wait_for("the graph of the run to be drawn", lambda: colours(graph) > 20 or None, 30)
    album.add("run-graph", page, heading, graph)

    open_tab(page, "Details")
    expect(fact(page, "Run Count")).to_have_text("3")
    capacity = [attempt.capacity_provider for attempt in app.attempts(completed)]
    assert capacity == ["FARGATE_SPOT", "FARGATE_SPOT", "FARGATE"]
    for attempt in app.attempts(completed):
        described = app.describe_task(attempt)
        assert (described["cpu"], described["memory"]) == SIZE, "the run's own size was lost on its way"


def test_log_says_what_lazarus_did(page: Page, album: Album) -> None:
    logs = open_tab(page, "Logs")
    expect(logs.get_by_text(f"Beginning flow run '{RUN}'").first).to_be_visible()
    page.get_by_role("combobox", name="log level filter").click()
    page.get_by_role("option", name="Warning and above").click()
    lines = logs.get_by_role("listitem")
    expect(lines).to_have_count(2)
    for line, words in zip(lines.all(), ("1 of 2 lost", "2 of 2 lost; switched to on-demand"), strict=True):
        expect(line).to_be_visible()
        expect(line).to_contain_text(
            f"Lazarus: (interruption) Spot took its machine; rescheduled, Spot attempt {words}"
        )
    album.add("run-log", page, page.get_by_role("tablist"), logs)


def test_finished_task_was_executed_once_and_cached_by_the_other_attempts(page: Page) -> None:
    task_runs = open_tab(page, "Task Runs")
    task_runs.get_by_role("textbox", name="Search by run name").fill("count-source")
    expect(task_runs.get_by_role("link", name="count-source", exact=True)).to_have_count(3)
    expect(task_runs.get_by_text("Completed", exact=True)).to_have_count(1)
    expect(task_runs.get_by_text("Cached", exact=True)).to_have_count(2)


def test_artifacts_are_really_drawn(page: Page, completed: UUID, album: Album) -> None:
    cards = open_tab(page, "Artifacts").get_by_role("link")
    expect(cards).to_have_count(len(ARTIFACTS))
    for key, kind in ARTIFACTS.items():
        expect(cards.filter(has_text=key)).to_contain_text(re.compile(kind, re.IGNORECASE))

    table, plot = ARTIFACTS
    content = open_artifact(page, table)
    rows = content.get_by_role("row")
    expect(rows.filter(has=page.get_by_role("columnheader"))).to_contain_text("late_percent")
    expect(rows).to_have_count(1 + 10)  # its first page
    album.add("artifact", page, page.get_by_role("tablist"), content.get_by_role("table"))

    # The navigation has no entry for artifacts: from one to another the way is up and down again.
    main = page.get_by_role("main")
    main.get_by_role("navigation", name="breadcrumb").get_by_role("link", name=table).click()
    main.get_by_role("navigation", name="breadcrumb").get_by_role("link", name="Artifacts").click()
    picture = open_artifact(page, plot).get_by_role("img")
    expect(picture).to_be_visible()
    page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    assert colours(picture) > 20
    album.add("artifact-plot", page, page.get_by_role("tablist"), picture)


def test_no_page_needs_another_machine(visit: Visit) -> None:
    assert {urlsplit(url).hostname for url in visit.outside} <= {ANALYTICS_SETTINGS}
