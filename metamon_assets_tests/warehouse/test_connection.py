from metamon_assets.warehouse import connect


def test_sessions_speak_utc_and_carry_their_name(database: str) -> None:
    connection = connect(database, "a test")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('TimeZone'), current_setting('application_name')")
        assert cursor.fetchone() == ("UTC", "a test")
    connection.close()


def test_sqlalchemy_spelling_is_accepted(database: str) -> None:
    connect(database.replace("postgresql://", "postgresql+psycopg2://")).close()
