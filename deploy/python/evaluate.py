from paddleseg_psp.commands.evaluate_bundle import main

if __name__ == "__main__":
    main()
