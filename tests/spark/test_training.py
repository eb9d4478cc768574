def test_probe(loaded):
    from nightjar.engine.training import train
    from nightjar.engine.night import run_night
    from datetime import date
    import time

    print("\n".join(loaded.said))
    t = time.time()
    r = train(loaded.work(date(2024, 3, 11)), date(2024, 3, 11))
    print(r)
    print(time.time() - t)
    t = time.time()
    run_night(loaded.work(date(2024, 3, 10)))
    print("\n".join(loaded.said))
    print(time.time() - t)
